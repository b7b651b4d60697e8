//! The library behind the `reloader` binary: a daemon that reloads HAProxy without losing a connection, and proves it.
//!
//! `ARCHITECTURE.md` in the repository says how the parts belong together.

mod accounts;
pub mod cli;
pub mod config;
pub mod custody;
pub mod daemon;
mod files;
pub mod gate;
mod generation_files;
pub mod haproxy;
pub mod inspection;
pub mod kernel;
pub mod listener;
pub mod load;
mod own_directory;
pub mod page;
pub mod process;
pub mod prove;
pub mod ready;
pub mod reload;
mod rights;
pub mod server;
pub mod supervision;
pub mod sys;
pub mod takeover;

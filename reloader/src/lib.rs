//! The library behind the `reloader` binary: a daemon that reloads HAProxy without losing a connection, and proves it.
//!
//! `ARCHITECTURE.md` in the repository says how the parts belong together.

#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, reason = "unit tests start processes of their own, and block no daemon's loop")
)]

pub mod cli;
pub mod config;
pub mod daemon;
mod fs;
pub mod gate;
pub mod haproxy;
pub mod hold_command;
pub mod kernel;
pub mod load;
pub mod model;
pub mod page;
pub mod plan;
pub mod process;
pub mod prove;
pub mod receipt;
pub mod reload;
pub mod server;
pub mod sockets;
pub mod supervision;
pub mod sys;
pub mod takeover;
mod units;

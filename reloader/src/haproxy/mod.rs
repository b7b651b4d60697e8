//! Speaks to HAProxy: the protocol that passes sockets, the process, its configuration and its runtime API.

pub mod appearance;
pub mod bind_protocol;
pub mod binds;
pub mod broker;
pub mod check;
mod cli_addresses;
pub mod client;
pub mod codec;
pub mod command_line;
pub mod drain_times;
mod environment_file;
pub mod inspect;
pub mod launch;
pub mod master;
pub mod named_files;
pub mod overlay;
pub mod peers;
pub(crate) mod pinned;
pub mod proxy_protocol;
pub mod runtime_api;
pub mod scan;
pub mod unit_command;
pub mod unix_files;
pub mod version;
mod words;

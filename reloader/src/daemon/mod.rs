//! The daemon: for each service one loop that supervises generations and runs reloads, one at a time.

mod active_clients;
mod adopt;
mod companion;
mod config_reload;
mod control;
mod errors;
mod event_loop;
mod events;
mod first_start;
mod pid1_drain;
pub mod protocol;
mod queue;
mod reloads;
mod restart;
mod restore;
mod runtime_dir;
mod setup;
mod signals;
mod socket_flags;
mod startup;
mod timing;
mod unix_paths;
mod unrecorded;

pub use errors::DaemonError;
pub use startup::run;

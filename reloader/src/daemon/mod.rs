//! The daemon: for each service one loop that supervises generations and runs reloads, one at a time.

mod adopt;
mod beginnings;
mod companion;
mod control;
mod conversations;
mod endings;
mod errors;
mod event_loop;
mod footing;
mod last_connections;
pub mod protocol;
mod queue;
mod requests;
mod settings;
mod setup;
mod signals;
mod socket_flags;
mod startup;
mod unrecorded;

pub use errors::DaemonError;
pub use startup::run;

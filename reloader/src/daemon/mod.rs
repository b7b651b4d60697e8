//! The daemon: one loop that supervises generations and runs reloads, one at a time.

mod adopt;
mod control;
mod errors;
mod event_loop;
pub mod protocol;
mod requests;
mod setup;

pub use errors::DaemonError;
pub use event_loop::run;

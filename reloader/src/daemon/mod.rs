//! The daemon: one loop that supervises generations and runs reloads, one at a time.

mod adopt;
mod control;
mod crash;
mod errors;
mod event_loop;
mod generation;
mod journal;
mod known_good;
mod log_tail;
mod notify;
pub mod protocol;
mod records;
mod requests;
mod setup;
pub mod status;
pub(crate) mod supervisor;

pub use errors::DaemonError;
pub use event_loop::run;
pub(crate) use generation::{Generation, open_connections};
pub use journal::read_newest;
pub(crate) use journal::receipt_id;
pub(crate) use notify::watchdog as keep_watchdog_quiet;

//! What the daemon looks after: the generations, custody, and the records of both. It decides when nothing serves any
//! more; what to do next is decided in `daemon/`, and how a reload goes in `reload/`.

mod companion;
mod crash;
pub(crate) mod fd_store;
mod generation;
mod journal;
mod known_good;
mod log_tail;
pub(crate) mod notify;
mod orphans;
mod published;
pub(crate) mod records;
mod standing;
pub mod status;
pub(crate) mod steering;
mod supervisor;
mod upkeep;

pub(crate) use companion::Companion;
pub(crate) use crash::Down;
pub(crate) use generation::{Generation, open_connections, since_epoch};
pub(crate) use journal::Journal;
pub use journal::read_newest;
pub(crate) use known_good::KnownGood;
pub(crate) use log_tail::LogTail;
pub(crate) use published::{Board, Published};
pub(crate) use standing::SharedStanding;
pub(crate) use supervisor::Supervisor;

//! What the daemon looks after: the generations, custody, and the records of both. It decides when nothing serves any
//! more; what to do next is decided in `daemon/`, and how a reload goes in `reload/`.

mod companion;
pub(crate) mod fd_store;
mod generation;
mod housekeeping;
mod journal;
mod last_known_good;
mod log_tail;
pub(crate) mod notify;
mod orphans;
mod published;
pub(crate) mod records;
mod restart_policy;
mod shared_qdiscs;
pub mod status;
pub(crate) mod steering;
mod supervisor;

pub(crate) use companion::Companion;
pub(crate) use generation::{Generation, open_connections, since_epoch};
pub(crate) use journal::Journal;
pub use journal::read_newest;
pub(crate) use last_known_good::LastKnownGood;
pub(crate) use log_tail::LogTail;
pub(crate) use published::{Published, StatusBoard};
pub(crate) use restart_policy::Outage;
pub(crate) use shared_qdiscs::SharedQdiscs;
pub(crate) use supervisor::Supervisor;

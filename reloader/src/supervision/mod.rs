//! Keeps the state of each service: its generations, its sockets, and the records of both. It decides when a service no
//! longer serves. `daemon/` decides what to do next, and `reload/` carries out reloads.

mod board;
mod connections;
mod drain_ledger;
mod drain_looks;
mod end_judgement;
pub(crate) mod fd_store;
mod generation;
mod generations;
mod host;
mod journal;
mod last_known_good;
mod log_tail;
mod notices;
pub(crate) mod notify;
mod outage;
mod path_links;
mod pid_file;
mod reach;
mod receipts;
mod record_writer;
pub(crate) mod records;
mod restart_policy;
mod service;
mod shared_qdiscs;
mod socket_store;
pub mod status;
pub(crate) mod steering;
mod supervisor;

pub(crate) use board::{Heartbeat, Published, StatusBoard};
pub(crate) use connections::open_connections;
pub(crate) use generation::{Generation, since_epoch};
pub(crate) use generations::Generations;
pub(crate) use host::Host;
pub(crate) use journal::Journal;
pub use journal::read_newest;
pub(crate) use last_known_good::LastKnownGood;
pub(crate) use log_tail::LogTail;
pub(crate) use notices::{Notice, Notices};
pub(crate) use outage::ServiceOutage;
pub(crate) use path_links::{PathLinks, clean_up as clean_up_path_links};
pub(crate) use receipts::Receipts;
pub(crate) use service::Service;
pub(crate) use shared_qdiscs::SharedQdiscs;
pub(crate) use socket_store::SocketStore;
pub(crate) use supervisor::Supervisor;

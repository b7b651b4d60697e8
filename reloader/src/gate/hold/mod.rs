//! Holds SYNs: for the length of a bind window no SYN reaches a port that would refuse it, and each is delivered afterwards.
//!
//! A hold has a holder and a guard. The holder is a thread that operates one of the two gates, [`ebpf`](super::ebpf) or
//! [`qdisc`](super::qdisc). The guard is a process that releases when its holder dies. The order in which both act makes every
//! moment safe to die in.

mod available;
mod channel;
mod clean_up;
mod delivery_lock;
mod error;
mod factory;
mod guard;
mod handle;
mod health;
mod liveness_socket;
mod own_entry;
mod persistent_qdiscs;
mod registry;
mod release;
mod request;
mod timing;
mod worker;

pub use super::contract::{
    Backend, Exception, Gate, GateError, Handover, HoldStats, LEASE, Living, Partial, Spec, Target,
};
pub use available::Gates;
pub use clean_up::{CleanUp, clean_up};
pub use error::HoldError;
pub use guard::run as run_guard;
pub use handle::{Hold, PreparedHold};
pub use own_entry::OwnEntry;
pub use persistent_qdiscs::PersistentQdiscs;
pub use registry::{GuardId, HoldEntry, HoldRecord, HoldRegistry, Locked, RegistryError};
pub use release::release_all;
pub use request::{EndReason, HoldOutcome, HoldRequest, HoldStarted};

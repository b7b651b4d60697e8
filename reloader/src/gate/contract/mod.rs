//! The contract between a hold and its gate: what the hold asks, and what the gate answers.
//!
//! Two gates implement it, [`ebpf`](super::ebpf) and [`qdisc`](super::qdisc). [`hold`](super::hold) chooses between them.

mod backend;
mod error;
mod operations;
mod spec;
mod stats;
#[cfg(test)]
pub(super) mod testing;
mod timing;

pub use backend::Backend;
pub use error::GateError;
pub(super) use operations::doubt_behind_others;
pub use operations::{Gate, Handover, Partial};
pub use spec::{Exception, Living, Spec, Target};
pub use stats::HoldStats;
pub(super) use timing::DELIVERY_TIMEOUT;
pub use timing::LEASE;

//! Everything that intercepts packets: holding SYNs, steering connections and counting SYNs. Nothing is attached outside a reload or a
//! hold.

mod attachment;
mod contract;
pub mod ebpf;
pub(crate) mod failures;
pub mod hold;
pub(crate) mod port_sharing;
pub mod probe;
pub(crate) mod programs;
pub mod qdisc;
pub mod reserve;
pub mod steer;
pub mod syn_counter;

pub use failures::ErrorList;
pub use programs::ProgramsError;

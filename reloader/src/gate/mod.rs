//! What stands in the packet path while it stands there: never outside a reload or a hold.

mod attachment;
pub mod ebpf;
pub mod hold;
pub mod probe;
pub(crate) mod programs;
pub mod qdisc;
pub mod reserve;
pub mod steer;
pub mod syn_counter;

pub use programs::ProgramsError;

//! What stands in the packet path while it stands there: never outside a reload or a hold.

pub(crate) mod programs;
pub mod syn_counter;

//! A reload: planned and judged by pure functions, run in two phases, told in a receipt.

pub mod confirm;
pub mod plan;
pub mod receipt;

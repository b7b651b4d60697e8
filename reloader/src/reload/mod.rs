//! A reload: planned and judged by pure functions, run in two phases, told in a receipt.

pub(crate) mod abandon;
pub mod around;
mod aside;
pub(crate) mod companion;
pub mod confirm;
pub(crate) mod count;
pub(crate) mod drain;
pub(crate) mod guards;
pub(crate) mod held;
pub mod plan;
pub mod receipt;
pub(crate) mod recorder;
pub(crate) mod replace;
pub(crate) mod replaced;
pub(crate) mod reserved;
pub(crate) mod retire;
pub(crate) mod run;
pub(crate) mod start;
pub(crate) mod steered;
mod stop_listening;

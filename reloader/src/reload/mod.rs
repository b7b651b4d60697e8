//! A reload: planned and judged by pure functions, run in two phases, told in a receipt.

pub(crate) mod abandon;
pub(crate) mod companion;
pub(crate) mod count;
pub(crate) mod drain;
pub(crate) mod held;
pub(crate) mod protection;
pub(crate) mod replace;
pub(crate) mod replaced;
pub(crate) mod reserved;
pub(crate) mod retire;
pub(crate) mod run;
mod run_blocking;
pub(crate) mod start;
pub(crate) mod steered;
mod stop_listening;
pub mod verdict;

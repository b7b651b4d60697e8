//! A reload: planned and judged by pure functions, carried out by a strategy over shared steps, told in a receipt.
//!
//! `attempt` owns what one reload works on, `run` chooses the strategy. `overlap`, `replace` and `companion` are the strategies; each is a sequence of `steps`.

pub(crate) mod attempt;
pub(crate) mod companion;
pub(crate) mod drain;
mod overlap;
pub(crate) mod protection;
mod replace;
pub(crate) mod run;
mod shared_start;
pub(crate) mod steps;
mod timing;
pub mod verdict;

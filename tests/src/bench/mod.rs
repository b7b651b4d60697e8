//! Measures one way of reloading HAProxy under one load. `cargo xtask bench` compares the ways.
//!
//! The program `bench-slice` runs one way under one share of the load, in its own namespaces, and prints [`Figures`].
//! `xtask` runs one share after the other, round by round, and adds up the figures. The program `bench-cost` compares the time of a
//! reload with that of HAProxy's own, without load.

mod around;
mod cost;
mod cpu;
mod figures;
mod flip;
mod front;
mod server;
mod slice;
mod way;

pub use around::{AFTER, BEFORE, BUCKET, Moment};
pub use cost::{Case, Change, Costs, compare};
pub use figures::Figures;
pub use flip::{Flip, NFTABLES};
pub use slice::{Share, run};
pub use way::Way;

//! One way of reloading under one load: what `cargo xtask bench` compares.
//!
//! The program `bench-slice` puts one way through one share of the load, in namespaces of its own, and prints [`Figures`].
//! `xtask` runs one after the other, round by round, and adds them up.

mod around;
mod cpu;
mod figures;
mod server;
mod slice;
mod way;

pub use around::{AFTER, BEFORE, BUCKET, Moment};
pub use figures::Figures;
pub use slice::{Share, run};
pub use way::Way;

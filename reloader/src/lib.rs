//! The library behind the `reloader` binary.

pub mod gate;
pub mod kernel;

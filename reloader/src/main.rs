//! The `reloader` binary.

fn main() {}

//! The library behind the `reloader` binary.

//! The only module with unsafe code in this crate; each block says why it is sound.
#![allow(unsafe_code)]

mod inherit;
mod watch;

pub use inherit::{Inheritance, NotForChildren, start_in_network_namespace};
pub use watch::watch;

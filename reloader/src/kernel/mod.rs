//! All netlink of the crate.

pub mod sock_diag;

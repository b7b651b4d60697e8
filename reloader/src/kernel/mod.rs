//! Talks to the kernel: all netlink of the crate and readers of /proc. Makes no decisions.

pub mod addresses;
pub(crate) mod bpf;
pub(crate) mod clock;
pub mod devices;
pub(crate) mod monitor;
pub(crate) mod netlink;
pub(crate) mod netstat;
mod release;
pub(crate) mod scm_rights;
pub mod sock_diag;
pub mod syncookies;
pub mod tc;
pub(crate) mod udp;

pub use release::kernel_release;

//! What this kernel has and can do: all netlink of the crate, and nothing that decides.

pub mod addresses;
pub(crate) mod bpf;
pub(crate) mod clock;
pub mod devices;
pub(crate) mod monitor;
pub(crate) mod netlink;
pub(crate) mod netstat;
pub mod probe;
pub mod sock_diag;
pub mod syncookies;
pub mod tc;
pub(crate) mod udp;

//! Holds SYNs by eBPF, on kernels from 5.8 on: a tc program parks them in a BPF ring buffer.
//!
//! Each device that hands packets to IP ([`receivers`](crate::kernel::devices::receivers)) gets two programs. The program at ingress
//! copies the SYNs of a held port to the ring and drops them, until a lease runs out. A SYN is delivered by sending it out of the
//! device by which it came, with a secret mark. The program at egress turns it back into that device, where the program at ingress
//! takes the mark off and lets it pass. SYNs from `lo` go back by a raw IP socket, and need no second program.
//!
//! While the handshakes of delivered SYNs are under way, the program at ingress finds the sockets of their segments, which the kernel
//! may miss (`settle.rs` of `reloader-ebpf`).

mod delivery;
mod error;
mod gate;
mod handover;
mod handshakes;
mod keys;
mod loaded_programs;
mod maps;
mod pacing;
mod packet;
mod sockets;
mod stale;
mod timing;

pub use super::attachment::Hook;
pub use error::EbpfError;
pub use gate::EbpfGate;
pub use stale::remove_stale;

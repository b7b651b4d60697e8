//! What the eBPF programs and user space share, and the pure SYN parser.
//!
//! The programs themselves are in `main.rs`, which only `cargo xtask build-ebpf` compiles. This library builds on the host
//! with no BPF toolchain, so that the code which looks at packets in the kernel is the code that the unit tests run.
#![no_std]

mod abi;
mod syn;

pub use abi::{ABI_VERSION, Address, MAX_WATCHED, SynKey, any_address, syn_key, v4_mapped, v6};
pub use syn::{Bytes, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Syn, syn_in_frame, syn_in_packet};

//! What the eBPF programs and user space share, and the pure SYN parser.
//!
//! The programs themselves are in `main.rs`, `hold.rs` and `steer.rs`, which only `cargo xtask build-ebpf` compiles. This library builds on the host
//! with no BPF toolchain, so that the code which looks at packets in the kernel is the code that the unit tests run.
#![no_std]

mod abi;
mod syn;

pub use abi::{
    ABI_VERSION, Address, HeldKey, MAX_FRAME, MAX_STEERED, MAX_WATCHED, PARK, PASS, Record, Steered, SynKey,
    any_address, control, count, held_key, left, member, span, syn_key, v4_address, v4_mapped, v6,
};
pub use syn::{
    Bytes, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Opening, Syn, opening_in_packet, syn_in_frame, syn_in_packet, tcp_in_packet,
};

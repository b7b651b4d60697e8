//! Shares types between the eBPF programs and user space, and parses SYNs.
//!
//! The programs are in `main.rs`, `hold.rs`, `steer.rs` and `bind.rs`, which only `cargo xtask build-ebpf` compiles. This library builds on the host
//! without a BPF toolchain, so that the unit tests run the same parser as the kernel.
#![no_std]

mod abi;
mod syn;

pub use abi::{
    ABI_VERSION, Address, HeldKey, MAX_FRAME, MAX_STEERED, MAX_WATCHED, PARK, PASS, Record, Steered, SynKey,
    any_address, bound, control, count, held_key, left, member, span, syn_key, v4_address, v4_mapped, v6,
};
pub use syn::{
    Bytes, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Opening, Syn, opening_in_packet, syn_in_frame, syn_in_packet, tcp_in_packet,
};

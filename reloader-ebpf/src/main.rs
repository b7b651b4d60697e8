//! Counts SYNs on a device. `cargo xtask build-ebpf` compiles the program for the BPF virtual machine; the object is committed.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "a BPF program reads the kernel's structures through pointers; the verifier checks every access at load"
)]

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_NO_PREALLOC, TC_ACT_UNSPEC},
    macros::{classifier, map},
    maps::{Array, PerCpuHashMap},
    programs::TcContext,
};
use reloader_ebpf::{ABI_VERSION, MAX_WATCHED, Syn, SynKey, any_address, syn_in_packet, syn_key};

mod load;
mod object;
mod packet;

use packet::Packet;

/// The number of entries is the version, see [`ABI_VERSION`].
#[map]
static ABI: Array<u32> = Array::with_max_entries(ABI_VERSION, 0);

/// The watched addresses, written by user space, with the number of SYNs that each CPU has seen. The map is not preallocated, because few
/// machines need room for the largest number of listeners.
#[map]
static SYNS: PerCpuHashMap<SynKey, u64> = PerCpuHashMap::with_max_entries(MAX_WATCHED, BPF_F_NO_PREALLOC);

/// Counts the SYNs for this host to a watched address. The next program decides about the packet: `TC_ACT_OK` would end the chain and skip
/// the filters of others.
#[classifier]
fn reloader_syns(ctx: TcContext) -> i32 {
    count(&ctx);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn count(ctx: &TcContext) {
    let packet = Packet { skb: ctx.as_ptr().cast() };
    if !packet.is_for_this_device() {
        return;
    }
    let Some(syn) = syn_in_packet(&packet, 0, packet.ethertype()) else {
        return;
    };
    let Some(counter) = counter_of(&syn) else {
        return;
    };
    if packet.is_for_this_host(&syn) {
        // SAFETY: the pointer is to this CPU's value, which no other context writes while a classifier runs, because classifiers run with
        // bottom halves off. The element stays allocated until the RCU read section that surrounds the program ends.
        unsafe { *counter += 1 }
    }
}

/// The counter of a SYN, looked up in the order in which the kernel finds a listener: the exact address first, then the wildcard of the same
/// family.
#[inline(always)]
fn counter_of(syn: &Syn) -> Option<*mut u64> {
    SYNS.get_ptr_mut(syn_key(syn.destination, syn.port))
        .or_else(|| SYNS.get_ptr_mut(syn_key(any_address(syn.ipv4), syn.port)))
}

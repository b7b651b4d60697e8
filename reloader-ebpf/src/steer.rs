//! Steers new connections to the new generation's sockets, and moves the queue of an old socket there when it closes. The programs are a
//! separate object, because kernels before 4.19 have no array of sockets.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(
    unsafe_code,
    reason = "a BPF program reads the kernel's structures through pointers; the verifier checks every access at load"
)]

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::generated::bpf_ktime_get_ns,
    macros::{map, sk_reuseport},
    maps::{Array, PerCpuArray, PerCpuHashMap, ReusePortSockArray},
    programs::SkReuseportContext,
};
use reloader_ebpf::{
    ABI_VERSION, Address, Bytes, HeldKey, MAX_STEERED, MAX_WATCHED, Opening, Steered, any_address, held_key, left,
    member, opening_in_packet, v4_address,
};

mod load;
mod object;
mod opaque;

use opaque::opaque;

const SK_PASS: u32 = 1;
const AF_INET: u32 = 2;

#[map]
static ABI: Array<u32> = Array::with_max_entries(ABI_VERSION, 0);

/// The groups, and the counters of their connections.
#[map]
static GROUPS: PerCpuHashMap<HeldKey, Steered> = PerCpuHashMap::with_max_entries(MAX_WATCHED, BPF_F_NO_PREALLOC);

/// The sockets to steer to. The sockets of a group are adjacent.
#[map]
static SOCKETS: ReusePortSockArray = ReusePortSockArray::with_max_entries(MAX_STEERED, 0);

/// The time until which the program steers, in nanoseconds of CLOCK_MONOTONIC.
#[map]
static LEASE: Array<u64> = Array::with_max_entries(1, 0);

/// The counters of segments that were left to the kernel, see [`left`].
#[map]
static LEFT: PerCpuArray<u64> = PerCpuArray::with_max_entries(left::ENTRIES, 0);

/// For kernels with migration (5.14): called for new connections, and for the connections of a listener that has
/// closed.
#[sk_reuseport(migrate)]
fn reloader_steer(ctx: SkReuseportContext) -> u32 {
    // SAFETY: `md` is the context of this program, in which both pointers may be read; `sk` is a socket of the group, whose
    // fields the verifier lets it read.
    let (sk, migrates) = unsafe {
        let sk = &*(*ctx.md).__bindgen_anon_3.sk;
        (sk, !(*ctx.md).__bindgen_anon_4.migrating_sk.is_null())
    };
    let address = one_of(sk.family == AF_INET, v4_address(sk.src_ip4), sk.src_ip6);
    let key = held_key(address, sk.src_port as u16, sk.bound_dev_if as u32);
    steer(&ctx, &key, migrates)
}

/// For kernels without migration: called for each segment that belongs to no connection (`inet_lookup_listener`), without the listener. Only
/// a SYN is steered.
#[sk_reuseport]
fn reloader_select(ctx: SkReuseportContext) -> u32 {
    let ethertype = u16::from_be(ctx.eth_protocol() as u16);
    let syn = match opening_in_packet(&Packet(&ctx), 0, ethertype) {
        Opening::Syn(syn) => syn,
        Opening::Answer => return leave(left::ANSWERS),
        Opening::Unread => return leave(left::CONNECTIONS),
        Opening::None => return SK_PASS,
    };
    let address = if ctx.bind_inany() != 0 { any_address(syn.ipv4) } else { syn.destination };
    steer(&ctx, &held_key(address, syn.port, 0), false)
}

/// Steers a connection. If anything fails, the kernel chooses as if there were no program.
#[inline(always)]
fn steer(ctx: &SkReuseportContext, key: &HeldKey, migrates: bool) -> u32 {
    // SAFETY: the helper takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    // Stored in units of eight bytes: from 5.16 until 6.8 the verifier demands CAP_PERFMON of a program that writes the two halves of a stack
    // slot one after the other (`check_stack_write_fixed_off`, "attempt to corrupt spilled pointer"). The object is built for little-endian
    // machines.
    let words = [0, 1, 2].map(|word| opaque(key[2 * word] as u64 | (key[2 * word + 1] as u64) << 32));
    // SAFETY: three words are as long as the six halves, and at least as aligned.
    let key: &HeldKey = unsafe { &*words.as_ptr().cast() };
    let Some(group) = GROUPS.get_ptr_mut(key).filter(|_| LEASE.get(0).is_some_and(|lease| now < *lease)) else {
        return leave(left::CONNECTIONS);
    };
    // Both counters are updated without a branch: without CAP_PERFMON the verifier refuses to add an offset that depends on one.
    let migrated = opaque(migrates as u64);
    // SAFETY: the pointer is to this CPU's value, which no other context writes, because the kernel calls the program with bottom halves off.
    // The element stays allocated until the RCU read section that surrounds the program ends.
    unsafe {
        if SOCKETS.select_reuseport(ctx, member((*group)[0], ctx.hash())).is_err() {
            return leave(left::CONNECTIONS);
        }
        (*group)[1] += 1 - migrated;
        (*group)[2] += migrated;
    }
    SK_PASS
}

#[inline(always)]
fn leave(kind: u32) -> u32 {
    if let Some(count) = LEFT.get_ptr_mut(kind) {
        // SAFETY: as above.
        unsafe { *count += 1 }
    }
    SK_PASS
}

/// One of two addresses, chosen by arithmetic. A branch would become a choice between two pointers into the socket, and the verifier demands
/// that each field is read at a constant offset.
#[inline(always)]
fn one_of(first: bool, one: Address, other: Address) -> Address {
    let mask = opaque(0_u64.wrapping_sub(first as u64)) as u32;
    [0, 1, 2, 3].map(|word| one[word] & mask | other[word] & !mask)
}

struct Packet<'a>(&'a SkReuseportContext);

impl Bytes for Packet<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        load::bytes(self.0.md.cast(), offset)
    }
}

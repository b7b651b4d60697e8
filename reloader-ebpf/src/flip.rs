//! Chooses which of two servers gets the new connections to a port. Only the benchmark uses it, to measure this technique: it is no part of
//! reloader, and an object of its own.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "a BPF program reads the kernel's structures through pointers; the verifier checks every access at load"
)]

use aya_ebpf::{
    macros::{map, sk_lookup},
    maps::{Array, SockMap},
    programs::SkLookupContext,
};

mod object;

const SK_PASS: u32 = 1;
const IPPROTO_TCP: u32 = 6;

/// The port whose connections are given to `CURRENT`, in host byte order.
#[map]
static PORT: Array<u32> = Array::with_max_entries(1, 0);

/// The listener that gets the new connections.
#[map]
static CURRENT: SockMap = SockMap::with_max_entries(1, 0);

/// Called for each segment for which there is no connection. Without a current listener the kernel looks for one itself.
#[sk_lookup]
fn bench_flip(ctx: SkLookupContext) -> u32 {
    // SAFETY: `lookup` is the context of this program, whose fields the verifier lets it read.
    let (protocol, port) = unsafe { ((*ctx.lookup).protocol, (*ctx.lookup).local_port) };
    if protocol == IPPROTO_TCP && PORT.get(0).is_some_and(|served| *served == port) {
        let _ = CURRENT.redirect_sk_lookup(&ctx, 0, 0);
    }
    SK_PASS
}

//! Lets a new generation bind beside the old one: sets SO_REUSEPORT on its TCP sockets a moment before they are bound to listed ports. The
//! programs are a separate object, because kernels before 5.12 refuse them.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "a BPF program reads the kernel's structures through pointers; the verifier checks every access at load"
)]

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_F_NO_PREALLOC,
    helpers::generated::{bpf_get_netns_cookie, bpf_setsockopt},
    macros::{cgroup_sock_addr, map},
    maps::{Array, HashMap, PerCpuArray},
    programs::SockAddrContext,
};
use reloader_ebpf::{ABI_VERSION, MAX_WATCHED, bound};

mod object;

/// bind(2) goes on.
const ALLOW: i32 = 1;
const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
/// The numbers of most architectures (`asm-generic/socket.h`). Those with others (alpha, hppa, mips, sparc) are not supported.
const SOL_SOCKET: i32 = 1;
const SO_REUSEPORT: i32 = 15;

/// The number of entries is the version, see [`ABI_VERSION`].
#[map]
static ABI: Array<u32> = Array::with_max_entries(ABI_VERSION, 0);

/// The listed ports, in host byte order.
#[map]
static PORTS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_WATCHED, BPF_F_NO_PREALLOC);

/// The cookie of the network namespace in which the ports are listed.
#[map]
static NAMESPACE: Array<u64> = Array::with_max_entries(1, 0);

/// The counters of binds to listed ports, see [`bound`].
#[map]
static BOUND: PerCpuArray<u64> = PerCpuArray::with_max_entries(bound::ENTRIES, 0);

#[cgroup_sock_addr(bind4)]
fn reloader_bind4(ctx: SockAddrContext) -> i32 {
    share(&ctx);
    ALLOW
}

#[cgroup_sock_addr(bind6)]
fn reloader_bind6(ctx: SockAddrContext) -> i32 {
    share(&ctx);
    ALLOW
}

#[inline(always)]
fn share(ctx: &SockAddrContext) {
    // SAFETY: the context is that of this program, and all of these fields may be read.
    let (kind, protocol, port) = unsafe {
        let address = &*ctx.sock_addr;
        (address.type_, address.protocol, u16::from_be(address.user_port as u16))
    };
    if kind != SOCK_STREAM || protocol != IPPROTO_TCP || PORTS.get_ptr(port as u32).is_none() {
        return;
    }
    // SAFETY: the helper takes the context.
    let namespace = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if NAMESPACE.get(0) != Some(&namespace) {
        return;
    }
    let mut on = 1_i32;
    // SAFETY: the helper takes the context and reads the four bytes of the value.
    let result = unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_REUSEPORT, (&raw mut on).cast(), size_of::<i32>() as i32)
    };
    let counter = if result == 0 { bound::SHARED } else { bound::REFUSED };
    if let Some(count) = BOUND.get_ptr_mut(counter) {
        // SAFETY: the pointer is to this CPU's value. Two binds that meet on one CPU may count as one, which is enough to see that there was one.
        unsafe { *count += 1 }
    }
}

//! Finds the socket of a segment for the kernel, which may not find it itself for an instant.
//!
//! When a handshake ends, kernels before 6.19 remove its request from their table and then insert the connection (`inet_ehash_insert`). A
//! lookup between the two steps finds neither, takes the listener, and is answered by a reset. This needs two CPUs at the same moment, one
//! with the client's ACK and one with its first data. It hardly ever happens to a client on another host, because its packets arrive in order
//! by one queue. A client on this host sends its data from the CPU on which it runs, while its handshake ends on the CPU that delivers its
//! SYN.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_TCP_LISTEN, BPF_TCP_NEW_SYN_RECV},
    helpers::generated::{bpf_sk_assign, bpf_sk_release, bpf_skc_lookup_tcp},
    macros::map,
    maps::PerCpuArray,
};
use reloader_ebpf::{
    Address, Bytes, ETHERTYPE_IPV4, ETHERTYPE_IPV6, HeldKey, PARK, any_address, held_key, v4_mapped, v6,
};

use crate::HELD;
use crate::packet::Packet;

const CURRENT_NETNS: u64 = u64::MAX;

/// How often a segment is looked up. The kernel is between its two steps for some ten nanoseconds, and a lookup takes a hundred.
const LOOKS: usize = 4;

/// The key of a lookup. It is not on the stack: once the constant word of an IPv4-mapped address was written there, kernels before 6.8 refuse
/// a write beside it, unless the loader has CAP_PERFMON ("attempt to corrupt spilled pointer on stack").
#[map]
static SETTLE_KEY: PerCpuArray<HeldKey> = PerCpuArray::with_max_entries(1, 0);

/// The result for a segment.
#[repr(u32)]
pub(crate) enum Settled {
    /// The segment was given to its handshake, which is not done yet. The kernel recognises a request that another CPU has just turned into a
    /// connection (`req_stolen` in `tcp_v4_rcv`), and looks it up again.
    Given,
    /// The kernel will find the connection, no socket listens, or the segment is not for a held port.
    Known,
    /// The segment has data and would be answered by a reset. The CPU between the two steps may have been stopped there, as a virtual CPU can
    /// be at any time. A client on this host sends unanswered data again, so the segment can be dropped on `lo`. On another device the
    /// connection may be invisible to this program: a segment that arrives by the slave of a VRF is looked up without the VRF.
    Unknown,
}

/// The connection of a segment. Segments that this program would look up differently from the kernel are left to the kernel: IPv6 with
/// extension headers, and link-local addresses, whose connections are bound to a device although they arrive by `lo`.
struct Ends {
    source: Address,
    destination: Address,
    /// Both ports, in the byte order of the segment.
    ports: u32,
    ipv4: bool,
    /// Whether the segment has data. A segment without data is the ACK of a handshake, or does not matter: its client does not repeat it, and
    /// if the kernel sent a SYN cookie, the listener is the right socket for it.
    has_data: bool,
}

/// Gives a later segment of a connection to its handshake, if the handshake is not done yet. The function is not inlined, so that it has a stack
/// of its own.
#[inline(never)]
pub(crate) fn settle(skb: *mut __sk_buff) -> Settled {
    let packet = Packet { skb };
    let Some(ends) = ends(&packet) else { return Settled::Known };
    if !is_to_a_held_port(&packet, &ends) {
        return Settled::Known;
    }
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (ends.source, ends.destination);
    // `struct bpf_sock_tuple` is one of two structures, told apart by the length.
    let (mut tuple, words) = if ends.ipv4 {
        ([s3, d3, ends.ports, 0, 0, 0, 0, 0, 0], 3)
    } else {
        ([s0, s1, s2, s3, d0, d1, d2, d3, ends.ports], 9)
    };
    for _ in 0..LOOKS {
        // SAFETY: `skb` is the context of the program, and the length is no more than the tuple's. The socket is released before
        // the next look.
        unsafe {
            let socket = bpf_skc_lookup_tcp(skb.cast(), (&raw mut tuple).cast(), words * 4, CURRENT_NETNS, 0);
            if socket.is_null() {
                return Settled::Known;
            }
            let state = (*socket).state;
            // A request that was removed from the table in the meantime is refused.
            let is_given = state == BPF_TCP_NEW_SYN_RECV && bpf_sk_assign(skb.cast(), socket.cast(), 0) == 0;
            bpf_sk_release(socket.cast());
            if is_given {
                return Settled::Given;
            }
            if state != BPF_TCP_NEW_SYN_RECV && state != BPF_TCP_LISTEN {
                return Settled::Known;
            }
        }
    }
    if ends.has_data { Settled::Unknown } else { Settled::Known }
}

#[inline(always)]
fn ends(packet: &Packet) -> Option<Ends> {
    const TCP: u8 = 6;
    const SYN_RST_ACK: u8 = 0x16;
    const ACK: u8 = 0x10;

    let ipv4 = packet.ethertype() == ETHERTYPE_IPV4;
    let (source, destination, tcp, end) = if ipv4 {
        let ip: [u8; 20] = packet.read(0)?;
        let is_whole = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff == 0;
        if ip[9] != TCP || !is_whole {
            return None;
        }
        let [source, destination] = [12, 16].map(|at| v4_mapped([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]));
        (source, destination, usize::from(ip[0] & 0x0f) * 4, u16::from_be_bytes([ip[2], ip[3]]))
    } else {
        let [high, low, next] = packet.read(4)?;
        let destination: [u8; 16] = packet.read(24)?;
        let is_link_local = destination[0] == 0xfe && destination[1] & 0xc0 == 0x80;
        if packet.ethertype() != ETHERTYPE_IPV6 || next != TCP || is_link_local {
            return None;
        }
        (v6(packet.read(8)?), v6(destination), 40, u16::from_be_bytes([high, low]) + 40)
    };
    let header: [u8; 14] = packet.read(tcp)?;
    let ports = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
    let has_data = usize::from(end) > tcp + usize::from(header[12] >> 4) * 4;
    (header[13] & SYN_RST_ACK == ACK).then_some(Ends { source, destination, ports, ipv4, has_data })
}

/// Looks up the destination as the program of the hold does: the first key in the map decides.
#[inline(always)]
fn is_to_a_held_port(packet: &Packet, ends: &Ends) -> bool {
    let [_, _, high, low] = ends.ports.to_ne_bytes();
    let port = u16::from_be_bytes([high, low]);
    // SAFETY: `skb` is the context of the program.
    let device = unsafe { (*packet.skb).ifindex };
    let any = any_address(ends.ipv4);
    let verdict = verdict(held_key(ends.destination, port, device))
        .or_else(|| verdict(held_key(ends.destination, port, 0)))
        .or_else(|| verdict(held_key(any, port, device)))
        .or_else(|| verdict(held_key(any, port, 0)));
    verdict == Some(PARK)
}

#[inline(always)]
fn verdict(key: HeldKey) -> Option<u32> {
    let place = SETTLE_KEY.get_ptr_mut(0)?;
    // SAFETY: the entry belongs to this CPU, and programs at ingress run with bottom halves off, one at a time. The elements stay allocated
    // until the RCU read section that surrounds the program ends.
    unsafe {
        *place = key;
        HELD.get_ptr(&*place).map(|verdict| *verdict)
    }
}

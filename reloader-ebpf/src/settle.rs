//! Finds the socket of a segment for the kernel, which for an instant may not find it itself.
//!
//! When a handshake ends, kernels before 6.19 take its request out of their table and then put the connection in
//! (`inet_ehash_insert`): what looks it up in between finds neither, takes the listener, and is answered by a reset. It needs two CPUs
//! at one moment, one with the client's ACK and one with its first data: hardly ever those of a client elsewhere, whose packets
//! come in order by one queue. A client on this host sends its data from whichever CPU it runs on, while its handshake is done on
//! that of whoever delivers its SYN.

use aya_ebpf::{
    bindings::{BPF_TCP_LISTEN, BPF_TCP_NEW_SYN_RECV},
    helpers::generated::{bpf_sk_assign, bpf_sk_release, bpf_skc_lookup_tcp},
};
use reloader_ebpf::Segment;

use crate::packet::Packet;

const CURRENT_NETNS: u64 = u64::MAX;

/// The kernel is between its two steps for some ten nanoseconds, a look takes a hundred.
const LOOKS: usize = 4;

/// What became of a segment.
pub(crate) enum Settled {
    /// It was given to its handshake, which is not done yet. There the kernel itself tells a request that another CPU has just made a
    /// connection of (`req_stolen` in `tcp_v4_rcv`), and looks again.
    Given,
    /// The kernel will find its connection, or nobody listens.
    Known,
    /// It would be answered by a reset. Perhaps the CPU that is between the steps was stopped there, as a virtual one is at any
    /// time: a client on this host that gets no answer sends again. By another device than `lo` it may be one that this program
    /// cannot know: what comes by the slave of a VRF is looked up without it.
    Unknown,
}

impl Packet {
    /// Gives the segment to its handshake, if that is not done yet.
    #[inline(always)]
    pub(crate) fn settle(&self, segment: &Segment) -> Settled {
        let Segment { source: [s0, s1, s2, s3], destination: [d0, d1, d2, d3], .. } = *segment;
        let ([s_high, s_low], [d_high, d_low]) = (segment.source_port.to_be_bytes(), segment.port.to_be_bytes());
        let ports = u32::from_ne_bytes([s_high, s_low, d_high, d_low]);
        // `struct bpf_sock_tuple` is one of two structures, told apart by the length.
        let (mut tuple, words) = if segment.ipv4 {
            ([s3, d3, ports, 0, 0, 0, 0, 0, 0], 3)
        } else {
            ([s0, s1, s2, s3, d0, d1, d2, d3, ports], 9)
        };
        for _ in 0..LOOKS {
            // SAFETY: `skb` is the context of this program, and the length is no more than the tuple's. The socket is released before the next look.
            unsafe {
                let socket = bpf_skc_lookup_tcp(self.skb.cast(), (&raw mut tuple).cast(), words * 4, CURRENT_NETNS, 0);
                if socket.is_null() {
                    return Settled::Known;
                }
                let state = (*socket).state;
                // A request that was taken out of the table since cannot be given.
                let is_given = state == BPF_TCP_NEW_SYN_RECV && bpf_sk_assign(self.skb.cast(), socket.cast(), 0) == 0;
                bpf_sk_release(socket.cast());
                if is_given {
                    return Settled::Given;
                }
                if state != BPF_TCP_NEW_SYN_RECV && state != BPF_TCP_LISTEN {
                    return Settled::Known;
                }
            }
        }
        Settled::Unknown
    }
}

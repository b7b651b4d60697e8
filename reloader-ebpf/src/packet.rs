//! Reads the packet of a tc program, and decides whether it is for this host.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, bpf_fib_lookup as FibLookup},
    helpers::generated::bpf_fib_lookup,
};
use reloader_ebpf::{Bytes, Syn};

use crate::load;

/// The packet that a tc program was called for.
pub(crate) struct Packet {
    pub(crate) skb: *mut __sk_buff,
}

impl Bytes for Packet {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        load::bytes(self.skb.cast(), offset)
    }
}

impl Packet {
    #[inline(always)]
    pub(crate) fn ethertype(&self) -> u16 {
        // SAFETY: `skb` is the context of this program.
        let protocol = unsafe { (*self.skb).protocol };
        u16::from_be(protocol as u16)
    }

    /// Whether the packet is for this device. A frame with a VLAN tag counts on the VLAN's device. A frame to another MAC address (a macvlan's,
    /// or one seen by a promiscuous device) counts on the device of its owner, if that is on this host. VLAN 0 is a priority, not a VLAN.
    #[inline(always)]
    pub(crate) fn is_for_this_device(&self) -> bool {
        const PACKET_HOST: u32 = 0;
        const VLAN_ID: u32 = 0x0fff;
        // SAFETY: `skb` is the context of this program.
        let (kind, tagged, tag) = unsafe { ((*self.skb).pkt_type, (*self.skb).vlan_present, (*self.skb).vlan_tci) };
        kind == PACKET_HOST && (tagged == 0 || tag & VLAN_ID == 0)
    }

    /// Whether the routing tables deliver the packet on this host, rather than forward it to another host's port of the same number.
    #[inline(always)]
    pub(crate) fn is_for_this_host(&self, syn: &Syn) -> bool {
        let mut lookup = self.route_of(syn);
        // SAFETY: both pointers are valid for the call, and the length is that of the structure.
        let result = unsafe { bpf_fib_lookup(self.skb.cast(), &raw mut lookup, size_of::<FibLookup>() as i32, 0) };
        // The helper looks up where the packet would be forwarded to, and gives NOT_FWDED for a local address. A device that does not forward
        // gets FWD_DISABLED before any lookup (bpf_ipv4_fib_lookup in net/core/filter.c).
        result == i64::from(BPF_FIB_LKUP_RET_NOT_FWDED) || result == i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED)
    }

    #[inline(always)]
    fn route_of(&self, syn: &Syn) -> FibLookup {
        const AF_INET: u8 = 2;
        const AF_INET6: u8 = 10;
        // SAFETY: the structure consists of integers only, for which zero is a valid value.
        let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
        lookup.l4_protocol = 6;
        // SAFETY: `skb` is the context of this program.
        lookup.ifindex = unsafe { (*self.skb).ifindex };
        if syn.ipv4 {
            lookup.family = AF_INET;
            lookup.__bindgen_anon_3.ipv4_src = syn.source[3];
            lookup.__bindgen_anon_4.ipv4_dst = syn.destination[3];
        } else {
            lookup.family = AF_INET6;
            lookup.__bindgen_anon_3.ipv6_src = syn.source;
            lookup.__bindgen_anon_4.ipv6_dst = syn.destination;
        }
        lookup
    }
}

//! Finds the SYN of a new TCP connection in a packet. The code is pure: the programs in the kernel and the unit tests run the same.

use crate::abi::{Address, v4_mapped, v6};

/// The EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// The EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

const ETHERNET_HEADER: usize = 14;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;

/// The offset of the byte with the flags in the TCP header.
const TCP_FLAGS: usize = 13;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FIN_ACK: u8 = 0x11;

const TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// RFC 8200 names four kinds, one of which may occur twice; the verifier needs a bound in any case.
const MAX_EXTENSION_HEADERS: usize = 6;

/// A packet that can be read at any offset: a slice on the host, an `skb` in the kernel.
pub trait Bytes {
    /// The `N` bytes at `offset`, or `None` where the packet ends before.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// The first packet of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syn {
    /// The address of the client.
    pub source: Address,
    /// The address to which the client connects.
    pub destination: Address,
    /// The destination port, in host byte order.
    pub port: u16,
    /// Whether the packet is IPv4. The address does not tell, because an IPv6 packet may go to an IPv4-mapped address.
    pub ipv4: bool,
}

/// What a TCP segment that belongs to no connection may begin at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// A connection.
    Syn(Syn),
    /// A connection, if it answers a SYN cookie (`cookie_v4_check`: ACK without SYN and RST).
    Answer,
    /// Nothing: the segment is dropped, or answered by a RST.
    None,
    /// Possibly a connection: the header could not be read, or its lengths are inconsistent.
    Unread,
}

/// The SYN in an Ethernet frame. `None` if the frame has no SYN, or if it has a VLAN tag (the VLAN device sees it untagged).
#[inline(always)]
pub fn syn_in_frame<B: Bytes + ?Sized>(frame: &B) -> Option<Syn> {
    let ethertype = u16::from_be_bytes(frame.read(ETHERNET_HEADER - 2)?);
    syn_in_packet(frame, ETHERNET_HEADER, ethertype)
}

/// The SYN in the packet whose IP header is at `start`, for devices without a link header, or where the kernel has removed it.
///
/// Only a SYN without ACK, RST or FIN counts. `None` also for the second and later fragments of a packet, which have no TCP header, for
/// lengths with which the kernel's TCP would drop the packet, and for IPv6 extension headers that this host must not skip.
#[inline(always)]
pub fn syn_in_packet<B: Bytes + ?Sized>(packet: &B, start: usize, ethertype: u16) -> Option<Syn> {
    match ethertype {
        ETHERTYPE_IPV4 => syn_in_ipv4(packet, start),
        ETHERTYPE_IPV6 => syn_in_ipv6(packet, start),
        _ => None,
    }
}

/// What may begin with the TCP segment of this packet. The IP header is at `start`. The packet must be TCP.
#[inline(always)]
pub fn opening_in_packet<B: Bytes + ?Sized>(packet: &B, start: usize, ethertype: u16) -> Opening {
    if let Some(syn) = syn_in_packet(packet, start, ethertype) {
        return Opening::Syn(syn);
    }
    let flags = tcp_in_packet(packet, start, ethertype).and_then(|(tcp, _)| packet.read(tcp + TCP_FLAGS));
    let Some([flags]) = flags else {
        return Opening::Unread;
    };
    match flags & FIN_SYN_RST_ACK {
        SYN => Opening::Unread,
        ACK | FIN_ACK => Opening::Answer,
        _ => Opening::None,
    }
}

/// The beginning of the TCP header and the end of the IP packet, in bytes from the beginning of `packet`. The packet must be TCP, such as one
/// in which [`syn_in_packet`] has found a SYN.
pub fn tcp_in_packet<B: Bytes + ?Sized>(packet: &B, start: usize, ethertype: u16) -> Option<(usize, usize)> {
    if ethertype == ETHERTYPE_IPV4 {
        let [first, _, high, low] = packet.read(start)?;
        let total = usize::from(u16::from_be_bytes([high, low]));
        return Some((start + usize::from(first & 0x0f) * 4, start + total));
    }
    let ip: [u8; 8] = packet.read(start)?;
    let end = start + IPV6_HEADER + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    Some((skip_extension_headers(packet, start + IPV6_HEADER, ip[6])?, end))
}

#[inline(always)]
fn syn_in_ipv4<B: Bytes + ?Sized>(packet: &B, start: usize) -> Option<Syn> {
    let ip: [u8; IPV4_HEADER] = packet.read(start)?;
    let header = usize::from(ip[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let fragment_offset = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff;
    if ip[0] >> 4 != 4 || header < IPV4_HEADER || fragment_offset != 0 || ip[9] != TCP {
        return None;
    }
    Some(Syn {
        source: v4_mapped([ip[12], ip[13], ip[14], ip[15]]),
        destination: v4_mapped([ip[16], ip[17], ip[18], ip[19]]),
        port: syn_port(packet, start + header, start + total)?,
        ipv4: true,
    })
}

#[inline(always)]
fn syn_in_ipv6<B: Bytes + ?Sized>(packet: &B, start: usize) -> Option<Syn> {
    let ip: [u8; 8] = packet.read(start)?;
    if ip[0] >> 4 != 6 {
        return None;
    }
    let end = start + IPV6_HEADER + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let tcp = skip_extension_headers(packet, start + IPV6_HEADER, ip[6])?;
    Some(Syn {
        port: syn_port(packet, tcp, end)?,
        source: v6(packet.read(start + 8)?),
        destination: v6(packet.read(start + 24)?),
        ipv4: false,
    })
}

/// The offset of the TCP header behind the extension headers.
#[inline(always)]
fn skip_extension_headers<B: Bytes + ?Sized>(packet: &B, mut offset: usize, mut next: u8) -> Option<usize> {
    for _ in 0..MAX_EXTENSION_HEADERS {
        if next == TCP {
            return Some(offset);
        }
        let header: [u8; 4] = packet.read(offset)?;
        offset += match next {
            HOP_BY_HOP | DESTINATION_OPTIONS => extension_length(header),
            // While segments are left, the destination address is an intermediate hop.
            ROUTING if header[3] == 0 => extension_length(header),
            FRAGMENT if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 == 0 => 8,
            _ => return None,
        };
        next = header[0];
    }
    (next == TCP).then_some(offset)
}

#[inline(always)]
fn extension_length(header: [u8; 4]) -> usize {
    (usize::from(header[1]) + 1) * 8
}

/// The destination port, if the bytes from `tcp` to `end` are a SYN. `end` is the end of the packet by its IP header: the frame may be padded
/// behind it.
#[inline(always)]
fn syn_port<B: Bytes + ?Sized>(packet: &B, tcp: usize, end: usize) -> Option<u16> {
    let header: [u8; TCP_HEADER] = packet.read(tcp)?;
    let length = usize::from(header[12] >> 4) * 4;
    let is_syn = header[TCP_FLAGS] & FIN_SYN_RST_ACK == SYN;
    (is_syn && length >= TCP_HEADER && tcp + length <= end).then(|| u16::from_be_bytes([header[2], header[3]]))
}

#[cfg(test)]
mod tests;

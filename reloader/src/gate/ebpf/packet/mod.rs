//! Reads parked SYNs from the records of the ring, and completes their checksums. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use reloader_ebpf::{Address, Record, Syn, syn_in_packet, tcp_in_packet};

/// The length of an Ethernet header, in bytes.
const ETHERNET_HEADER: usize = 14;
/// The number of TCP in an IP header.
const TCP: u32 = 6;

/// A record of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parked<'a> {
    /// When the SYN arrived, in nanoseconds of CLOCK_MONOTONIC.
    pub(super) arrived: u64,
    /// The index of the device by which it arrived.
    pub(super) device: u32,
    /// The protocol behind the link header, in host byte order.
    pub(super) ethertype: u16,
    /// The packet, from the link header on.
    pub(super) frame: &'a [u8],
}

impl<'a> Parked<'a> {
    /// Reads a record as the program writes it. `None` where it is too short.
    pub(super) fn read(record: &'a [u8]) -> Option<Self> {
        let (header, frame) = record.split_at_checked(Record::HEADER as usize)?;
        let (arrived, header) = header.split_first_chunk()?;
        let (device, ethertype) = header.split_first_chunk()?;
        Some(Self {
            arrived: u64::from_ne_bytes(*arrived),
            device: u32::from_ne_bytes(*device),
            ethertype: u32::from_ne_bytes(*ethertype.first_chunk()?) as u16,
            frame,
        })
    }

    /// Finds the SYN. Where the packets of the device begin without an Ethernet header, they begin with IP, or with the four bytes that
    /// Infiniband has there.
    pub(super) fn segment(&self, ethernet: bool) -> Option<Segment> {
        let starts: &[usize] = if ethernet { &[ETHERNET_HEADER] } else { &[0, 4] };
        starts.iter().find_map(|&start| Segment::at(self.frame, start, self.ethertype))
    }
}

/// Identifies one attempt to connect. A SYN that is sent again has the same flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    source: Address,
    destination: Address,
    ports: [u8; 4],
    sequence: [u8; 4],
}

/// Where in a frame the SYN is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) syn: Syn,
    pub(super) flow: Flow,
    /// Where the IP header begins.
    pub(super) ip: usize,
    tcp: usize,
    end: usize,
}

impl Segment {
    fn at(frame: &[u8], ip: usize, ethertype: u16) -> Option<Self> {
        let syn = syn_in_packet(frame, ip, ethertype)?;
        let (tcp, end) = tcp_in_packet(frame, ip, ethertype)?;
        let (ports, rest) = frame.get(tcp..end)?.split_first_chunk()?;
        let sequence = *rest.first_chunk()?;
        let flow = Flow { source: syn.source, destination: syn.destination, ports: *ports, sequence };
        Some(Self { syn, flow, ip, tcp, end })
    }

    /// The address and port to which it goes.
    pub(super) fn destination(&self) -> SocketAddr {
        SocketAddr::new(ip(self.syn.destination, self.syn.ipv4), self.syn.port)
    }

    /// The address and port from which it comes.
    pub(super) fn source(&self) -> SocketAddr {
        let [high, low, ..] = self.flow.ports;
        SocketAddr::new(ip(self.syn.source, self.syn.ipv4), u16::from_be_bytes([high, low]))
    }

    /// Completes the TCP checksum where the sender left that to a device, so that only the sum of the pseudo header is there
    /// (CHECKSUM_PARTIAL; over `lo` and veth no device ever completes it). A wrong checksum stays wrong.
    pub(super) fn complete_checksum(&self, frame: &mut [u8]) {
        const FIELD: usize = 16;
        let pseudo = self.pseudo_header();
        let segment = &mut frame[self.tcp..self.end];
        let field = [segment[FIELD], segment[FIELD + 1]];
        let is_right = fold(pseudo + sum(segment)) == 0xffff;
        if is_right || u16::from_be_bytes(field) != fold(pseudo) {
            return;
        }
        segment[FIELD..FIELD + 2].fill(0);
        let checksum = !fold(pseudo + sum(segment));
        segment[FIELD..FIELD + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    /// The sum of the pseudo header: addresses, protocol and length. Of an IPv4 address only the last word counts.
    fn pseudo_header(&self) -> u32 {
        let words = if self.syn.ipv4 { 3.. } else { 0.. };
        let addresses = self.syn.source[words.clone()].iter().chain(&self.syn.destination[words]);
        let addresses: u32 = addresses.map(|word| sum(&word.to_ne_bytes())).sum();
        addresses + TCP + (self.end - self.tcp) as u32
    }
}

/// An address of the maps as an IP address.
fn ip(words: Address, ipv4: bool) -> IpAddr {
    let mut octets = [0; 16];
    octets.as_chunks_mut::<4>().0.iter_mut().zip(words).for_each(|(to, word)| *to = word.to_ne_bytes());
    let address = Ipv6Addr::from(octets);
    if ipv4 { IpAddr::V6(address).to_canonical() } else { address.into() }
}

/// The sum of the 16-bit words in network byte order. A frame is too short for an overflow.
fn sum(bytes: &[u8]) -> u32 {
    let (words, last) = bytes.as_chunks::<2>();
    let odd = last.first().map_or(0, |&byte| u32::from(byte) << 8);
    words.iter().map(|&word| u32::from(u16::from_be_bytes(word))).sum::<u32>() + odd
}

/// Folds the carries of a sum back into 16 bits.
fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests;

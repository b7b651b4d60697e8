//! Builds TCP segments that a kernel does not send by itself.

use std::net::SocketAddrV4;

/// The flags of a segment (RFC 9293).
pub const FIN: u8 = 0x01;
/// See [`FIN`].
pub const SYN: u8 = 0x02;
/// See [`FIN`].
pub const RST: u8 = 0x04;
/// See [`FIN`].
pub const ACK: u8 = 0x10;

/// An IPv4 packet with a TCP segment without data. It is for a raw socket that takes the IP header, and fills in that
/// header's checksum.
pub fn segment(from: SocketAddrV4, to: SocketAddrV4, flags: u8) -> Vec<u8> {
    let mut tcp = [0_u8; 20];
    tcp[..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    // A header of five words, the flags, a window.
    tcp[12..16].copy_from_slice(&[0x50, flags, 0xff, 0xff]);
    let pseudo = [&from.ip().octets()[..], &to.ip().octets(), &[0, 6, 0, 20], &tcp].concat();
    tcp[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.ip().octets().iter().chain(&to.ip().octets()).chain(&tcp));
    packet
}

/// The checksum of an even number of bytes (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

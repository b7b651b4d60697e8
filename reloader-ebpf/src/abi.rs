//! The types and numbers that both sides of the kernel boundary must agree on.

/// Changes whenever the meaning or the layout of anything in this module changes.
///
/// Each object declares a map named `ABI` with this many entries, and the loader refuses an object with another number: the
/// number of entries can be read back on every kernel, a `.rodata` section only from 5.2 on.
pub const ABI_VERSION: u32 = 5;

/// How many keys can be counted, or held, at once. A dual-stack listener on `[::]` takes two.
pub const MAX_WATCHED: u32 = 16_384;

/// An IPv6 address, or an IPv4 one as an IPv4-mapped address, in network byte order. In words: a program that handles it byte by
/// byte is three times as long.
pub type Address = [u32; 4];

/// The key of the map `SYNS`, whose per-CPU value is a `u64`: how many SYNs were seen. The [`Address`], then the port in network
/// byte order and two bytes of zero.
///
/// An array: the kernel compares keys byte by byte, and a structure's padding would be compared too.
pub type SynKey = [u32; 5];

/// The key of one address and port (host byte order).
#[inline(always)]
pub const fn syn_key(address: Address, port: u16) -> SynKey {
    let [a, b, c, d] = address;
    let [high, low] = port.to_be_bytes();
    [a, b, c, d, u32::from_ne_bytes([high, low, 0, 0])]
}

/// The key of the map `HELD`, whose value is [`PARK`] or [`PASS`]: as [`SynKey`], then the number of the device that the listener is
/// bound to, or 0, in host byte order.
pub type HeldKey = [u32; 6];

/// SYNs to this key are parked.
pub const PARK: u32 = 1;
/// SYNs to this key are somebody else's: not parked, although a wildcard is held.
pub const PASS: u32 = 2;

/// The key of one address and port (host byte order), on one device or (0) on any.
#[inline(always)]
pub const fn held_key(address: Address, port: u16, device: u32) -> HeldKey {
    let [a, b, c, d, port] = syn_key(address, port);
    [a, b, c, d, port, device]
}

/// The value of the map `GROUPS`, whose key is that of a reuseport group's listeners: the [`span`] of the sockets that are steered
/// to, the same on each CPU, and how many connections the CPU has steered and migrated.
pub type Steered = [u64; 3];

/// How many sockets can be steered to at once.
pub const MAX_STEERED: u32 = 16_384;

/// The places `first` to `first + count - 1` of the map `SOCKETS`.
#[inline(always)]
pub const fn span(first: u32, count: u32) -> u64 {
    (first as u64) << 32 | count as u64
}

/// The place within a span for a connection with this hash, spread as the kernel does (`reciprocal_scale`).
#[inline(always)]
pub const fn member(span: u64, hash: u32) -> u32 {
    (span >> 32) as u32 + ((hash as u64 * (span & 0xffff_ffff)) >> 32) as u32
}

/// The entries of the map `CONTROL`, whose values are `u64`.
pub mod control {
    /// Until when SYNs are parked: nanoseconds of CLOCK_MONOTONIC. Later ones pass.
    pub const LEASE: u32 = 0;
    /// The mark of packets that are being delivered; 32 bits, never 0.
    pub const MARK: u32 = 1;
    /// Until when handshakes are settled: nanoseconds of CLOCK_MONOTONIC. From when it is not 0 nothing is parked.
    pub const SETTLING: u32 = 2;
    /// How many there are.
    pub const ENTRIES: u32 = 3;
}

/// The entries of the map `COUNTS`, whose per-CPU values are `u64`.
pub mod count {
    /// SYNs that were parked.
    pub const HELD: u32 = 0;
    /// SYNs that were dropped, because the ring was full or the frame longer than [`MAX_FRAME`](super::MAX_FRAME).
    pub const DROPPED: u32 = 1;
    /// SYNs that passed a held port because the lease had run out.
    pub const LAPSED: u32 = 2;
    /// Segments that were given to a handshake of theirs that was not done.
    pub const SETTLED: u32 = 3;
    /// How many there are.
    pub const ENTRIES: u32 = 4;
}

/// The entries of the map `LEFT`, whose per-CPU values are `u64`: what was left to the kernel's own choice.
pub mod left {
    /// New connections.
    pub const CONNECTIONS: u32 = 0;
    /// Segments that begin a connection where they answer a SYN cookie, and else nothing.
    pub const ANSWERS: u32 = 1;
    /// How many there are.
    pub const ENTRIES: u32 = 2;
}

/// The longest frame that is parked, in bytes: a SYN has data (TCP Fast Open) of no more than one page.
pub const MAX_FRAME: u32 = 4096 + 256;

/// What is in the ring: a parked SYN. A record of it ends where the frame does.
#[repr(C)]
pub struct Record {
    /// When it came: nanoseconds of CLOCK_MONOTONIC.
    pub arrived: u64,
    /// By which device: its number.
    pub device: u32,
    /// The EtherType of what follows the link header, in host byte order.
    pub ethertype: u32,
    /// From the link header on, if the device's packets have one.
    pub frame: [u8; MAX_FRAME as usize],
}

impl Record {
    /// The bytes of a record that are not the frame.
    pub const HEADER: u64 = 16;
}

/// `::ffff:a.b.c.d`.
#[inline(always)]
pub const fn v4_mapped(address: [u8; 4]) -> Address {
    [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(address)]
}

/// `::ffff:a.b.c.d` of an address in network byte order.
#[inline(always)]
pub const fn v4_address(address: u32) -> Address {
    v4_mapped(address.to_ne_bytes())
}

/// The address whose bytes these are.
#[inline(always)]
pub const fn v6(address: [u8; 16]) -> Address {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

/// `0.0.0.0` or `::`. Arithmetic, not a choice between two constants: those would be put into a `.rodata` section, and kernels
/// before 5.2 take no such object.
#[inline(always)]
pub const fn any_address(ipv4: bool) -> Address {
    [0, 0, 0xffff_u32.to_be() * ipv4 as u32, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_network_order_and_tells_the_families_apart() {
        let key = syn_key(v4_mapped([10, 0, 0, 1]), 0x1f90).map(u32::to_ne_bytes);
        assert_eq!(key, [[0; 4], [0; 4], [0, 0, 0xff, 0xff], [10, 0, 0, 1], [0x1f, 0x90, 0, 0]]);
        assert_eq!(v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]), v4_mapped([10, 0, 0, 1]));
        assert_eq!(held_key(v4_mapped([10, 0, 0, 1]), 0x1f90, 7)[..5], syn_key(v4_mapped([10, 0, 0, 1]), 0x1f90));
        assert_eq!(any_address(true), v4_mapped([0; 4]));
        assert_eq!(any_address(false), v6([0; 16]));
    }

    #[test]
    fn connections_are_spread_over_a_span_and_no_further() {
        let span = span(7, 3);
        assert_eq!([0, u32::MAX / 3 + 1, u32::MAX / 3 * 2 + 2, u32::MAX].map(|hash| member(span, hash)), [7, 8, 9, 9]);
    }

    #[test]
    fn a_frame_begins_where_the_header_of_its_record_ends() {
        assert_eq!(core::mem::offset_of!(Record, frame), Record::HEADER as usize);
        assert_eq!((core::mem::offset_of!(Record, device), core::mem::offset_of!(Record, ethertype)), (8, 12));
    }
}

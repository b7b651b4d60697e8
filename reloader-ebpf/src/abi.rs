//! Defines the types and numbers on which the programs and user space must agree.

/// The version of this module. It changes with the meaning or the layout of anything in it.
///
/// Each object declares a map named `ABI` with this number of entries, and the loader refuses an object with another number. A map's
/// number of entries can be read back on every kernel, a `.rodata` section only from 5.2 on.
pub const ABI_VERSION: u32 = 5;

/// The maximum number of keys that are counted, or held, at once. A dual-stack listener on `[::]` takes two.
pub const MAX_WATCHED: u32 = 16_384;

/// An IPv6 address, or an IPv4-mapped address, in network byte order. It consists of words, because a program that handles it byte by byte
/// is three times as long.
pub type Address = [u32; 4];

/// The key of the map `SYNS`, whose per-CPU value is the number of SYNs seen, a `u64`. It consists of the [`Address`], the port in network
/// byte order, and two bytes of zero.
///
/// It is an array, because the kernel compares keys byte by byte, and would compare the padding of a structure too.
pub type SynKey = [u32; 5];

/// The key of one address and port (host byte order).
#[inline(always)]
pub const fn syn_key(address: Address, port: u16) -> SynKey {
    let [a, b, c, d] = address;
    let [high, low] = port.to_be_bytes();
    [a, b, c, d, u32::from_ne_bytes([high, low, 0, 0])]
}

/// The key of the map `HELD`, whose value is [`PARK`] or [`PASS`]. It consists of a [`SynKey`] and the number of the device to which the
/// listener is bound, or 0, in host byte order.
pub type HeldKey = [u32; 6];

/// SYNs to this key are parked.
pub const PARK: u32 = 1;
/// SYNs to this key belong to another listener: they pass, although a wildcard is held.
pub const PASS: u32 = 2;

/// The key of one address and port (host byte order), on one device or (0) on any.
#[inline(always)]
pub const fn held_key(address: Address, port: u16, device: u32) -> HeldKey {
    let [a, b, c, d, port] = syn_key(address, port);
    [a, b, c, d, port, device]
}

/// The value of the map `GROUPS`. The key is the [`HeldKey`] of the listeners of a reuseport group. It consists of the [`span`] of the sockets
/// to steer to, which is the same on each CPU, and the numbers of connections that this CPU has steered and migrated.
pub type Steered = [u64; 3];

/// The maximum number of sockets to steer to at once.
pub const MAX_STEERED: u32 = 16_384;

/// The entries `first` to `first + count - 1` of the map `SOCKETS`.
#[inline(always)]
pub const fn span(first: u32, count: u32) -> u64 {
    (first as u64) << 32 | count as u64
}

/// The entry of a span for a connection with this hash. Connections are spread as by the kernel (`reciprocal_scale`).
#[inline(always)]
pub const fn member(span: u64, hash: u32) -> u32 {
    (span >> 32) as u32 + ((hash as u64 * (span & 0xffff_ffff)) >> 32) as u32
}

/// The entries of the map `CONTROL`, whose values are `u64`.
pub mod control {
    /// The time until which SYNs are parked, in nanoseconds of CLOCK_MONOTONIC. Later SYNs pass.
    pub const LEASE: u32 = 0;
    /// The mark of packets that are being delivered; 32 bits, never 0.
    pub const MARK: u32 = 1;
    /// The time until which handshakes are settled, in nanoseconds of CLOCK_MONOTONIC. Unless it is 0, no SYN is parked.
    pub const SETTLING: u32 = 2;
    /// The number of entries.
    pub const ENTRIES: u32 = 3;
}

/// The entries of the map `COUNTS`, whose per-CPU values are `u64`.
pub mod count {
    /// SYNs that were parked.
    pub const HELD: u32 = 0;
    /// SYNs that were dropped because the ring was full, or the frame longer than [`MAX_FRAME`](super::MAX_FRAME).
    pub const DROPPED: u32 = 1;
    /// SYNs that passed to a held port because the lease had expired.
    pub const LAPSED: u32 = 2;
    /// Segments that were given to their handshake, which was not done yet.
    pub const SETTLED: u32 = 3;
    /// The number of entries.
    pub const ENTRIES: u32 = 4;
}

/// The entries of the map `LEFT`, whose per-CPU values are `u64`: the numbers of segments for which the kernel itself chose a socket.
pub mod left {
    /// New connections.
    pub const CONNECTIONS: u32 = 0;
    /// Segments that begin a connection only if they answer a SYN cookie.
    pub const ANSWERS: u32 = 1;
    /// The number of entries.
    pub const ENTRIES: u32 = 2;
}

/// The entries of the map `BOUND`, whose per-CPU values are `u64`: the numbers of binds to a listed port.
pub mod bound {
    /// The socket got SO_REUSEPORT.
    pub const SHARED: u32 = 0;
    /// The kernel refused the option.
    pub const REFUSED: u32 = 1;
    /// The number of entries.
    pub const ENTRIES: u32 = 2;
}

/// The longest frame that is parked, in bytes. The data of a SYN (TCP Fast Open) is at most one page.
pub const MAX_FRAME: u32 = 4096 + 256;

/// A parked SYN in the ring. A record ends where its frame ends.
#[repr(C)]
pub struct Record {
    /// The time of arrival, in nanoseconds of CLOCK_MONOTONIC.
    pub arrived: u64,
    /// The number of the device at which it arrived.
    pub device: u32,
    /// The EtherType of the packet behind the link header, in host byte order.
    pub ethertype: u32,
    /// The frame, with its link header if the device's packets have one.
    pub frame: [u8; MAX_FRAME as usize],
}

impl Record {
    /// The length of a record without its frame, in bytes.
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

/// The address with these bytes.
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

/// `0.0.0.0` or `::`. It is computed, because a choice between two constants would put them into a `.rodata` section, and kernels before
/// 5.2 refuse such an object.
#[inline(always)]
pub const fn any_address(ipv4: bool) -> Address {
    [0, 0, 0xffff_u32.to_be() * ipv4 as u32, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_network_order_and_differ_between_families() {
        let key = syn_key(v4_mapped([10, 0, 0, 1]), 0x1f90).map(u32::to_ne_bytes);
        assert_eq!(key, [[0; 4], [0; 4], [0, 0, 0xff, 0xff], [10, 0, 0, 1], [0x1f, 0x90, 0, 0]]);
        assert_eq!(v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]), v4_mapped([10, 0, 0, 1]));
        assert_eq!(held_key(v4_mapped([10, 0, 0, 1]), 0x1f90, 7)[..5], syn_key(v4_mapped([10, 0, 0, 1]), 0x1f90));
        assert_eq!(any_address(true), v4_mapped([0; 4]));
        assert_eq!(any_address(false), v6([0; 16]));
    }

    #[test]
    fn connections_are_spread_over_exactly_their_span() {
        let span = span(7, 3);
        assert_eq!([0, u32::MAX / 3 + 1, u32::MAX / 3 * 2 + 2, u32::MAX].map(|hash| member(span, hash)), [7, 8, 9, 9]);
    }

    #[test]
    fn frame_begins_where_the_record_header_ends() {
        assert_eq!(core::mem::offset_of!(Record, frame), Record::HEADER as usize);
        assert_eq!((core::mem::offset_of!(Record, device), core::mem::offset_of!(Record, ethertype)), (8, 12));
    }
}

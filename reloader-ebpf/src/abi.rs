//! The types and numbers that both sides of the kernel boundary must agree on.

/// Changes whenever the meaning or the layout of anything in this module changes.
///
/// The object declares a map named `ABI` with this many entries, and the loader refuses an object with another number: the
/// number of entries can be read back on every kernel, a `.rodata` section only from 5.2 on.
pub const ABI_VERSION: u32 = 1;

/// How many keys can be counted at once. A dual-stack listener on `[::]` takes two.
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

/// `::ffff:a.b.c.d`.
#[inline(always)]
pub const fn v4_mapped(address: [u8; 4]) -> Address {
    [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(address)]
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
        assert_eq!(any_address(true), v4_mapped([0; 4]));
        assert_eq!(any_address(false), v6([0; 16]));
    }
}

//! The types and numbers that both sides of the kernel boundary must agree on.

/// Changes whenever the meaning or the layout of anything in this module changes.
///
/// The object declares a map named `ABI` with this many entries, and the loader refuses an object with another number: the
/// number of entries can be read back on every kernel, a `.rodata` section only from 5.2 on.
pub const ABI_VERSION: u32 = 1;

/// How many keys can be counted at once. A dual-stack listener on `[::]` takes two.
pub const MAX_WATCHED: u32 = 16_384;

/// The key of the map `SYNS`, whose per-CPU value is a `u64`: how many SYNs were seen. 16 bytes of address (IPv4 as an
/// IPv4-mapped one, so that `0.0.0.0` and `::` are different keys), then the port, all in network byte order.
///
/// An array: the kernel compares keys byte by byte, and a structure's padding would be compared too.
pub type SynKey = [u8; 18];

/// The key of one address (network byte order) and port (host byte order).
#[inline(always)]
pub const fn syn_key(address: [u8; 16], port: u16) -> SynKey {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    let [high, low] = port.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, high, low]
}

/// `::ffff:a.b.c.d`, in network byte order.
#[inline(always)]
pub const fn v4_mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// `0.0.0.0` or `::`, as a [`SynKey`] has it. Arithmetic, not a choice between two constants: those would be put into
/// a `.rodata` section, and kernels before 5.2 take no such object.
#[inline(always)]
pub const fn any_address(ipv4: bool) -> [u8; 16] {
    let mapped = 0_u8.wrapping_sub(ipv4 as u8);
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mapped, mapped, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_network_order_and_tells_the_families_apart() {
        let key = syn_key(v4_mapped([10, 0, 0, 1]), 0x1f90);
        assert_eq!(key[..10], [0; 10]);
        assert_eq!(key[10..], [0xff, 0xff, 10, 0, 0, 1, 0x1f, 0x90]);
        assert_eq!(any_address(true), v4_mapped([0; 4]));
        assert_eq!(any_address(false), [0; 16]);
    }
}

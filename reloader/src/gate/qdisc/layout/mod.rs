//! Computes the u32 tables for a coverage. Pure. Addresses lead to ports, so that the number of entries is the sum of both, not the
//! product.
//!
//! ```text
//! IPv4  root: TCP, no later fragment -> addresses -> (behind the header, with its options) ports
//! IPv6  root -> addresses -> next header -> (behind the header) ports
//!                                       `-> an extension header -> another one -> ports
//! ports: SYN without ACK, RST or FIN, and the port -> hold
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::coverage::{Coverage, Ports};
use super::error::QdiscError;
use crate::kernel::addresses::Prefix;
use crate::kernel::tc::u32_filter::{HeaderSkip, Key, LengthField, MAX_ENTRIES, Protocol};

/// The tables of one protocol.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) protocol: Protocol,
    /// What the entry of the root table compares. It leads to table 0. With this entry the hold begins and ends.
    pub(super) gate: Vec<Key>,
    /// The tables, each with its entries in the order in which they are tried.
    pub(super) tables: Vec<Vec<Entry>>,
}

/// What an entry compares, and what it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) keys: Vec<Key>,
    pub(super) then: Step,
}

/// What an entry leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Puts the packet into the plug.
    Hold,
    /// Looks into another table, by its number.
    Go(usize, Option<HeaderSkip>),
}

/// The number of TCP in an IP header.
const TCP: u8 = 6;
/// IPv6 extension headers of one form: hop-by-hop options, routing, destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
/// The IPv6 extension header of a fragment.
const FRAGMENT: u8 = 44;

/// The tables for this coverage, for each protocol that it has addresses of.
pub(super) fn layouts(coverage: &Coverage) -> Result<Vec<Layout>, QdiscError> {
    let of = |v4: bool| -> Coverage {
        let of_family = coverage.iter().filter(|(prefix, _)| prefix.address.is_ipv4() == v4);
        of_family.map(|(prefix, ports)| (*prefix, ports.clone())).collect()
    };
    let mut layouts = Vec::new();
    for (coverage, layout) in [(of(true), ipv4 as fn(&Coverage) -> Layout), (of(false), ipv6)] {
        check("addresses", coverage.len())?;
        coverage.values().try_for_each(|ports| check("ports", ports.len()))?;
        if !coverage.is_empty() {
            layouts.push(layout(&coverage));
        }
    }
    Ok(layouts)
}

/// Refuses more entries than a table takes.
fn check(what: &'static str, number: usize) -> Result<(), QdiscError> {
    if number > MAX_ENTRIES { Err(QdiscError::TooMany { what, number }) } else { Ok(()) }
}

fn ipv4(coverage: &Coverage) -> Layout {
    /// The length of the header: the lower half of the first byte, in units of four bytes.
    const HEADER: HeaderSkip =
        HeaderSkip { bytes: 0, length_field: Some(LengthField { offset: 0, mask: 0x0f00, shift: 6 }) };
    let gate = vec![
        Key { offset: 8, mask: 0x00ff_0000, value: u32::from(TCP) << 16 },
        // A later fragment has no TCP header.
        Key { offset: 4, mask: 0x0000_1fff, value: 0 },
    ];
    let mut tables = vec![Vec::new()];
    let mut known = BTreeMap::new();
    for (prefix, covered) in coverage {
        let behind = *known.entry(covered).or_insert_with(|| add(&mut tables, ports(covered)));
        tables[0].push(Entry { keys: destination(prefix, 16), then: Step::Go(behind, Some(HEADER)) });
    }
    Layout { protocol: Protocol::Ipv4, gate, tables }
}

fn ipv6(coverage: &Coverage) -> Layout {
    let gate = vec![Key { offset: 0, mask: 0xf000_0000, value: 0x6000_0000 }];
    let mut tables = vec![Vec::new()];
    let mut known = BTreeMap::new();
    for (prefix, covered) in coverage {
        let behind = *known.entry(covered).or_insert_with(|| next_headers(&mut tables, covered));
        tables[0].push(Entry { keys: destination(prefix, 24), then: Step::Go(behind, None) });
    }
    Layout { protocol: Protocol::Ipv6, gate, tables }
}

/// Adds the tables behind an IPv6 address: TCP follows directly, or behind one or two extension headers. Returns the first table.
fn next_headers(tables: &mut Vec<Vec<Entry>>, covered: &Ports) -> usize {
    const HEADER: HeaderSkip = HeaderSkip { bytes: 40, length_field: None };
    /// Eight bytes, and eight more for each unit that the second byte says. tc refuses the odd position, the kernel does not.
    const EXTENSION: HeaderSkip =
        HeaderSkip { bytes: 8, length_field: Some(LengthField { offset: 1, mask: 0xff00, shift: 5 }) };

    let ports = add(tables, ports(covered));
    let second = add(tables, vec![extension(TCP, ports, EXTENSION)]);
    let further = [43, 60].map(|next| extension(next, second, EXTENSION));
    let first = add(tables, [vec![extension(TCP, ports, EXTENSION)], further.to_vec()].concat());

    let next = |number: u8| Key { offset: 4, mask: 0x0000_ff00, value: u32::from(number) << 8 };
    let mut entries = vec![Entry { keys: vec![next(TCP)], then: Step::Go(ports, Some(HEADER)) }];
    entries.extend(EXTENSIONS.map(|number| Entry { keys: vec![next(number)], then: Step::Go(first, Some(HEADER)) }));
    // The first fragment only. Its second byte is reserved and zero, which reads as a length of eight bytes.
    let first_fragment = Key { offset: 40, mask: 0x0000_fff8, value: 0 };
    entries.push(Entry { keys: vec![next(FRAGMENT), first_fragment], then: Step::Go(first, Some(HEADER)) });
    add(tables, entries)
}

/// An entry for an extension header whose next header is `next`.
fn extension(next: u8, table: usize, skip: HeaderSkip) -> Entry {
    Entry {
        keys: vec![Key { offset: 0, mask: 0xff00_0000, value: u32::from(next) << 24 }],
        then: Step::Go(table, Some(skip)),
    }
}

/// The entries for the ports. Their positions count from the TCP header.
fn ports(covered: &Ports) -> Vec<Entry> {
    const SYN: Key = Key { offset: 12, mask: 0x0017_0000, value: 0x0002_0000 };
    let port = |port: &u16| Key { offset: 0, mask: 0x0000_ffff, value: u32::from(*port) };
    covered.iter().map(|number| Entry { keys: vec![SYN, port(number)], then: Step::Hold }).collect()
}

/// What an entry compares for the destination address, which begins `offset` bytes into the IP header.
fn destination(prefix: &Prefix, offset: i32) -> Vec<Key> {
    let bytes = match prefix.address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word));
    let keys = words.enumerate().map(|(index, value)| {
        let known = u32::from(prefix.length).saturating_sub(index as u32 * 32).min(32);
        let mask = u32::MAX.checked_shl(32 - known).unwrap_or(0);
        Key { offset: offset + index as i32 * 4, mask, value: value & mask }
    });
    let keys: Vec<Key> = keys.filter(|key| key.mask != 0).collect();
    // An entry without a key would match everything, and tc could not show it.
    if keys.is_empty() { vec![Key { offset, mask: 0, value: 0 }] } else { keys }
}

/// Adds a table. Returns its number.
fn add(tables: &mut Vec<Vec<Entry>>, entries: Vec<Entry>) -> usize {
    tables.push(entries);
    tables.len() - 1
}

#[cfg(test)]
mod tests;

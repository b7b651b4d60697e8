//! Lists the addresses of this host: a packet to one of them is for this host.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::netlink;

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Prefix {
    /// The lowest of these addresses.
    pub(crate) address: IpAddr,
    /// The number of leading bits that these addresses share: 32 (IPv4) or 128 (IPv6) for a single address.
    pub(crate) length: u8,
}

impl Prefix {
    /// The prefix of a single address.
    pub(crate) fn host(address: IpAddr) -> Self {
        Self { address, length: width(address) }
    }

    /// Whether this prefix contains all addresses of `other`.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        width(self.address) == width(other.address)
            && self.length <= other.length
            && (bits(self.address) ^ bits(other.address)) & mask(self.address, self.length) == 0
    }

    /// This prefix without the addresses of `hole`, as the smallest number of prefixes.
    pub(crate) fn without(&self, hole: &Self) -> Vec<Self> {
        if hole.contains(self) {
            return Vec::new();
        }
        if !self.contains(hole) {
            return vec![*self];
        }
        // Each step halves the prefix, towards the hole. The half without the hole is part of the result.
        let sibling = |length: u8| {
            let lowest = 1_u128 << (width(self.address) - length);
            let address = (bits(hole.address) ^ lowest) & mask(self.address, length);
            Self { address: with_bits(self.address, address), length }
        };
        (self.length + 1..=hole.length).map(sibling).collect()
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn with_bits(family: IpAddr, bits: u128) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

fn mask(family: IpAddr, length: u8) -> u128 {
    let rest = u32::from(width(family) - length);
    let all = u128::MAX >> (128 - u32::from(width(family)));
    u128::MAX.checked_shl(rest).unwrap_or(0) & all
}

/// The prefixes of this host in the calling thread's network namespace, sorted. They are the destinations of the routes in the table `local`,
/// which may be whole networks (127.0.0.0/8). The addresses of all interfaces are added, because the route of an address may be in the table of
/// a VRF.
///
/// # Errors
/// The kernel's error number where it refuses to list them.
pub(crate) fn local_prefixes() -> io::Result<Vec<Prefix>> {
    let mut found = routes()?;
    found.extend(interface_addresses()?);
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Those of the addresses that are not addresses of this host, in the calling thread's network namespace. Only for an address that no interface
/// has is a route looked up: a router has very many.
///
/// # Errors
/// The kernel's error number where it refuses to list the addresses.
pub(crate) fn absent(addresses: &HashSet<IpAddr>) -> io::Result<HashSet<IpAddr>> {
    let present: HashSet<IpAddr> = interface_addresses()?.into_iter().map(|prefix| prefix.address).collect();
    Ok(addresses.iter().filter(|address| !present.contains(address) && !has_local_route(**address)).copied().collect())
}

/// Whether the route to an address ends at this host, as that to 127.0.0.2. True where the kernel does not tell.
fn has_local_route(address: IpAddr) -> bool {
    let mut question = RouteMessage::default();
    question.header.address_family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    question.header.destination_prefix_length = width(address);
    question.attributes.push(RouteAttribute::Destination(match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }));
    match netlink::request(NETLINK_ROUTE, RouteNetlinkMessage::GetRoute(question), NLM_F_ACK) {
        Ok(answers) => answers.iter().any(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => route.header.kind == RouteType::Local,
            _ => false,
        }),
        Err(error) => ![Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::ESRCH]
            .iter()
            .any(|errno| error.raw_os_error() == Some(*errno as i32)),
    }
}

/// Whether this host lets servers bind addresses of this family that it does not have (`ip_nonlocal_bind` of the kernel's ip-sysctl).
pub(crate) fn are_bound_before_they_exist(address: IpAddr) -> bool {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let text = std::fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind"));
    text.is_ok_and(|text| text.trim() != "0")
}

fn routes() -> io::Result<Vec<Prefix>> {
    let question = RouteNetlinkMessage::GetRoute(RouteMessage::default());
    let answers = netlink::request(NETLINK_ROUTE, question, NLM_F_DUMP)?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => local_route(route),
            _ => None,
        })
        .collect())
}

fn local_route(route: &RouteMessage) -> Option<Prefix> {
    // RT_TABLE_LOCAL of linux/rtnetlink.h. A route of type local in another table is for packets with a mark (TPROXY).
    const RT_TABLE_LOCAL: u8 = 255;
    let RouteHeader { kind, table, destination_prefix_length: length, .. } = route.header;
    if kind != RouteType::Local || table != RT_TABLE_LOCAL {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(Prefix { address: (*address).into(), length }),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
            Some(Prefix { address: (*address).into(), length })
        }
        _ => None,
    })
}

fn interface_addresses() -> io::Result<Vec<Prefix>> {
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let answers = netlink::request(NETLINK_ROUTE, question, NLM_F_DUMP)?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(address) => own_address(address),
            _ => None,
        })
        .collect())
}

/// The address of this host in an interface address. On a point-to-point link IFA_LOCAL is the address of this end, and
/// IFA_ADDRESS is the address of the other end. IPv6 has IFA_ADDRESS only.
fn own_address(message: &AddressMessage) -> Option<Prefix> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = || {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) if message.header.family == AddressFamily::Inet6 => Some(*address),
            _ => None,
        })
    };
    local.or_else(address).map(Prefix::host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
    }

    #[test]
    fn prefix_contains_longer_prefixes_of_its_family() {
        assert!(prefix("127.0.0.0/8").contains(&prefix("127.1.2.3/32")));
        assert!(!prefix("127.0.0.0/8").contains(&prefix("128.0.0.0/8")));
        assert!(!prefix("127.0.0.0/8").contains(&prefix("126.0.0.0/7")));
        assert!(prefix("0.0.0.0/0").contains(&prefix("10.0.0.1/32")));
        assert!(!prefix("0.0.0.0/0").contains(&prefix("::1/128")));
        assert!(prefix("fe80::/10").contains(&prefix("fe80::1/128")));
    }

    #[test]
    fn removing_a_hole_splits_a_prefix_into_halves() {
        let left = prefix("127.0.0.0/8").without(&prefix("127.0.0.1/32"));
        assert_eq!(left.len(), 24);
        assert!(left.contains(&prefix("127.0.0.0/32")) && left.contains(&prefix("127.128.0.0/9")), "{left:?}");
        assert!(left.iter().all(|piece| !piece.contains(&prefix("127.0.0.1/32"))));
        assert_eq!(prefix("10.0.0.0/31").without(&prefix("10.0.0.0/32")), [prefix("10.0.0.1/32")]);
        assert_eq!(prefix("10.0.0.1/32").without(&prefix("10.0.0.1/32")), []);
        assert_eq!(prefix("10.0.0.1/32").without(&prefix("10.0.0.2/32")), [prefix("10.0.0.1/32")]);
        assert_eq!(prefix("fd00::/126").without(&prefix("fd00::3/128")), [prefix("fd00::/127"), prefix("fd00::2/128")]);
    }

    #[test]
    fn address_of_a_local_route_is_not_absent() {
        let addresses = ["127.0.0.1", "127.1.2.3", "192.0.2.77", "2001:db8::77"].map(|text| text.parse().unwrap());
        let absent = absent(&addresses.into()).unwrap();
        assert_eq!(absent, HashSet::from([addresses[2], addresses[3]]));
    }

    #[test]
    fn loopback_network_is_local_as_a_whole() {
        let local = local_prefixes().unwrap();
        assert!(local.contains(&prefix("127.0.0.0/8")) && local.contains(&prefix("127.0.0.1/32")), "{local:?}");
    }
}

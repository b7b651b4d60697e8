//! The addresses of this host.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink;

/// The number of the first device that has this address.
///
/// # Errors
/// Where the kernel refuses to list the addresses.
pub(crate) fn device_of(address: Ipv6Addr) -> io::Result<Option<u32>> {
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let answers = netlink::request(NETLINK_ROUTE, question, NLM_F_DUMP)?;
    let wanted = AddressAttribute::Address(IpAddr::V6(address));
    Ok(answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(found) => found.attributes.contains(&wanted).then_some(found.header.index),
        _ => None,
    }))
}

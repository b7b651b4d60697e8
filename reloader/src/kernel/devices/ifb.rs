//! Adds and removes ifb devices, and reads their counters.

use std::io;

use rtnetlink::packet_core::NLM_F_ACK;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::{Handle, LinkUnspec};

use crate::kernel::netlink;

/// Adds an ifb device, already up, without IPv6: the packets that the kernel would send there by itself did not arrive
/// anywhere.
///
/// # Errors
/// EOPNOTSUPP where the kernel has no ifb, EEXIST where the name is taken, EPERM without CAP_NET_ADMIN.
pub(crate) fn add_ifb(name: &str) -> io::Result<()> {
    netlink::execute(&format_args!("adding the device {name}"), |handle| addition(handle, name))
}

async fn addition(handle: Handle, name: &str) -> Result<(), rtnetlink::Error> {
    handle.link().add(ifb(name)).execute().await
}

fn ifb(name: &str) -> LinkMessage {
    // One byte less than IPV6_MIN_MTU: `addrconf_notify` in net/ipv6/addrconf.c leaves such a device alone.
    const TOO_SMALL_FOR_IPV6: u32 = 1279;
    let kind = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]);
    // `LinkIfb` puts the name first, `ip` the MTU.
    LinkUnspec::new_with_index(0).mtu(TOO_SMALL_FOR_IPV6).name(name).append_extra_attribute(kind).up().build()
}

/// Removes the device with this number.
///
/// # Errors
/// ENODEV where it is gone, EPERM without CAP_NET_ADMIN.
pub(crate) fn remove(index: u32) -> io::Result<()> {
    netlink::execute(&format_args!("removing device {index}"), |handle| removal(handle, index))
}

async fn removal(handle: Handle, index: u32) -> Result<(), rtnetlink::Error> {
    handle.link().del(index).execute().await
}

/// Packets that a device has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    /// Packets given to an ifb device, whatever became of them.
    pub(crate) received: u64,
    /// Of these, packets that had not been redirected to it.
    pub(crate) not_taken: u64,
    /// Packets that an ifb device has sent on to where they came from, or tried to.
    pub(crate) sent: u64,
    /// Of these, packets whose device has gone.
    pub(crate) lost: u64,
}

/// The counters of the device with this number.
///
/// By hand, because they decide whether parked SYNs wait still: `rtnetlink` drops an answer of which it cannot parse one
/// attribute.
///
/// # Errors
/// ENODEV where it is gone.
pub(crate) fn counters(index: u32) -> io::Result<Counters> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let answers = netlink::request(NETLINK_ROUTE, RouteNetlinkMessage::GetLink(link), NLM_F_ACK)?;
    let attributes = answers.iter().flat_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => link.attributes.as_slice(),
        _ => &[],
    });
    let mut counters = attributes.filter_map(|attribute| match attribute {
        LinkAttribute::Stats64(stats) => Some(Counters {
            received: stats.rx_packets,
            not_taken: stats.rx_dropped,
            sent: stats.tx_packets,
            lost: stats.tx_dropped,
        }),
        _ => None,
    });
    Ok(counters.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tc::golden::hex_sent;

    #[test]
    fn ifb_is_added_with_the_bytes_of_ip() {
        // ip link add rlr-hold-7 mtu 1279 up type ifb
        let expected = "44000000100005060000000000000000000000000000000001000000010000000800\
            0400ff0400000f000300726c722d686f6c642d3700000c0012000700010069666200";
        // ip does not count the zero behind "ifb" as part of the attribute (7 bytes), the library does (8): either is a string.
        let expected = expected.replace("0700010069666200", "0800010069666200");
        assert_eq!(hex_sent(|handle| addition(handle, "rlr-hold-7")), expected);
    }

    #[test]
    fn device_is_removed_with_the_bytes_of_ip() {
        // ip link del rlr-hold-7, which is device 3
        let expected = "2000000011000500000000000000000000000000030000000000000000000000";
        assert_eq!(hex_sent(|handle| removal(handle, 3)), expected);
    }
}

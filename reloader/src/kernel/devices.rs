//! The network devices of a namespace, and which of them hand packets to IP.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{self, CREATE};

/// `lo` in every namespace: LOOPBACK_IFINDEX of the kernel's `include/net/flow.h`.
pub const LO: u32 = 1;

/// A network device, as far as it matters to where a packet passes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// Its name in its namespace.
    pub name: String,
    /// Its number in its namespace.
    pub index: u32,
    /// Whether it was set up (IFF_UP), with or without a carrier.
    pub up: bool,
    /// The bridge, bond, VRF, … that it is a part of.
    pub master: Option<u32>,
    /// The device below it (a VLAN's, a macvlan's) or its peer (a veth's), if that is in the same namespace.
    pub lower: Option<u32>,
    /// Whether its packets begin with an Ethernet header, as `lo`'s do too.
    pub ethernet: bool,
    /// What rtnetlink calls its kind: `vlan`, `bridge`, …; hardware has none.
    pub kind: Option<String>,
}

impl Device {
    /// Whether its name leads to it.
    pub fn has_readable_name(&self) -> bool {
        !self.name.contains(' ')
    }
}

/// The devices of the calling thread's network namespace.
///
/// # Errors
/// Where the kernel refuses to list them.
pub fn list() -> io::Result<Vec<Device>> {
    let answers = netlink::request(NETLINK_ROUTE, RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(Device::from(link)),
            _ => None,
        })
        .collect())
}

/// The number of the device of this name, in the calling thread's network namespace.
pub(crate) fn index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Adds a device that needs nothing but a name.
///
/// # Errors
/// EOPNOTSUPP where the kernel has no such kind, EPERM without CAP_NET_ADMIN.
pub(crate) fn add(name: &str, kind: InfoKind) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])];
    netlink::request(NETLINK_ROUTE, RouteNetlinkMessage::NewLink(link), CREATE).map(drop)
}

/// Adds an ifb device, already up, without IPv6: what the kernel would send there by itself is nothing that arrived.
///
/// # Errors
/// EOPNOTSUPP where the kernel has no such kind, EEXIST where the name is taken, EPERM without CAP_NET_ADMIN.
pub(crate) fn add_ifb(name: &str) -> io::Result<()> {
    netlink::request(NETLINK_ROUTE, ifb(name), CREATE).map(drop)
}

fn ifb(name: &str) -> RouteNetlinkMessage {
    // One byte less than IPV6_MIN_MTU: `addrconf_notify` in net/ipv6/addrconf.c leaves such a device alone.
    const TOO_SMALL_FOR_IPV6: u32 = 1279;
    let mut link = LinkMessage::default();
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![
        LinkAttribute::Mtu(TOO_SMALL_FOR_IPV6),
        LinkAttribute::IfName(name.into()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
    ];
    RouteNetlinkMessage::NewLink(link)
}

/// Removes a device.
///
/// # Errors
/// ENODEV where it is gone, EPERM without CAP_NET_ADMIN.
pub(crate) fn remove(index: u32) -> io::Result<()> {
    netlink::request(NETLINK_ROUTE, removal(index), NLM_F_ACK).map(drop)
}

fn removal(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    RouteNetlinkMessage::DelLink(link)
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

/// The counters of a device.
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
    Ok(attributes
        .filter_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(Counters {
                received: stats.rx_packets,
                not_taken: stats.rx_dropped,
                sent: stats.tx_packets,
                lost: stats.tx_dropped,
            }),
            _ => None,
        })
        .next()
        .unwrap_or_default())
}

/// The devices on which every packet for this host is seen exactly once: those that hand packets to IP.
///
/// - A device with a master (bridge port, bond slave) hands them to its master, which has an ingress of its own.
/// - A VRF is the exception among masters: packets go to IP on the slave, and the VRF's ingress never sees them.
/// - A VLAN's device and the one below it both stay: a tagged frame counts on the VLAN's only (the program looks at the tag).
/// - So do a macvlan's: its frames go to a MAC address that is not the lower device's (the program looks at that too).
/// - An ipvlan shares its lower device's MAC address: where that is in this namespace, it sees the packet first.
/// - A tunnel's outer packet is no TCP, a veth's two ends have one ingress each per direction: nothing to do.
pub fn receivers(devices: &[Device]) -> Vec<&Device> {
    devices.iter().filter(|device| hands_packets_to_ip(device, devices)).collect()
}

fn hands_packets_to_ip(device: &Device, all: &[Device]) -> bool {
    let is_vrf = |device: &Device| device.kind.as_deref() == Some("vrf");
    let on_its_own = device.master.is_none_or(|master| all.iter().any(|d| d.index == master && is_vrf(d)));
    let seen_below = device.kind.as_deref() == Some("ipvlan") && device.lower.is_some();
    device.up && on_its_own && !seen_below && !is_vrf(device)
}

impl From<&LinkMessage> for Device {
    fn from(link: &LinkMessage) -> Self {
        let mut device = Self {
            index: link.header.index,
            up: link.header.flags.contains(LinkFlags::Up),
            ethernet: matches!(link.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback),
            ..Self::default()
        };
        // Where the name cannot be read. No device has spaces in its name (`dev_valid_name`).
        device.name = format!("device {} (its name is not UTF-8)", device.index);
        let mut lower_is_elsewhere = false;
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name.clone_from(name),
                LinkAttribute::Controller(master) => device.master = Some(*master),
                LinkAttribute::Link(lower) => device.lower = Some(*lower),
                LinkAttribute::LinkNetNsId(_) => lower_is_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => device.kind = kind_of(infos),
                _ => {}
            }
        }
        if lower_is_elsewhere {
            device.lower = None;
        }
        device
    }
}

fn kind_of(infos: &[LinkInfo]) -> Option<String> {
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tc::golden::hex;

    fn device(index: u32, name: &str, kind: &str) -> Device {
        Device {
            name: name.into(),
            index,
            up: true,
            ethernet: true,
            kind: (!kind.is_empty()).then(|| kind.into()),
            ..Device::default()
        }
    }

    fn names(devices: &[Device]) -> Vec<&str> {
        receivers(devices).iter().map(|device| device.name.as_str()).collect()
    }

    #[test]
    fn plain_devices_receive_when_they_are_up() {
        let down = Device { up: false, ..device(3, "eth1", "") };
        assert_eq!(names(&[device(1, "lo", ""), device(2, "eth0", ""), down]), ["lo", "eth0"]);
    }

    #[test]
    fn a_bridge_receives_for_its_ports() {
        let port = Device { master: Some(9), ..device(2, "eth0", "") };
        assert_eq!(names(&[port.clone(), device(9, "br0", "bridge")]), ["br0"]);
        // A master that is not in the list is still a master.
        assert_eq!(names(&[port]), [""; 0]);
    }

    #[test]
    fn the_slaves_of_a_vrf_receive_themselves() {
        let slave = Device { master: Some(9), ..device(2, "eth0", "") };
        assert_eq!(names(&[slave, device(9, "blue", "vrf")]), ["eth0"]);
    }

    #[test]
    fn stacked_devices() {
        let on_eth0 = |index, name, kind| Device { lower: Some(2), ..device(index, name, kind) };
        let devices = [
            device(2, "eth0", ""),
            on_eth0(3, "eth0.10", "vlan"),
            on_eth0(4, "macvlan0", "macvlan"),
            on_eth0(5, "ipvlan0", "ipvlan"),
            device(6, "moved", "ipvlan"),
        ];
        assert_eq!(names(&devices), ["eth0", "eth0.10", "macvlan0", "moved"]);
    }

    #[test]
    fn an_ifb_is_added_as_ip_does_it() {
        // ip link add rlr-hold-7 mtu 1279 up type ifb
        let expected = "44000000100005060000000000000000000000000000000001000000010000000800\
            0400ff0400000f000300726c722d686f6c642d3700000c0012000700010069666200";
        // ip does not count the zero behind "ifb" as part of the attribute (7 bytes), the library does (8): either is a string.
        let expected = expected.replace("0700010069666200", "0800010069666200");
        assert_eq!(hex(&ifb("rlr-hold-7"), CREATE), expected);
    }

    #[test]
    fn a_device_is_removed_as_ip_does_it() {
        // ip link del rlr-hold-7, which is device 3
        let expected = "2000000011000500000000000000000000000000030000000000000000000000";
        assert_eq!(hex(&removal(3), NLM_F_ACK), expected);
    }

    #[test]
    fn the_loopback_device_is_listed() {
        let devices = list().unwrap();
        let lo = devices.iter().find(|device| device.name == "lo").unwrap();
        assert_eq!((lo.index, lo.ethernet, lo.master, lo.kind.as_deref()), (1, true, None, None));
        assert_eq!((index("lo"), index("none-such")), (Some(LO), None));
    }
}

//! Lists the network devices of a namespace.

use std::io;

use rtnetlink::packet_core::NLM_F_DUMP;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::netlink;

mod ifb;
mod receivers;

pub(crate) use ifb::{Counters, add_ifb, counters, remove};
pub use receivers::receivers;

/// The number of `lo` in every namespace: LOOPBACK_IFINDEX of the kernel's `include/net/flow.h`.
pub const LO: u32 = 1;

/// A network device, with the properties that decide where a packet passes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// Its name in its namespace.
    pub name: String,
    /// Its number in its namespace.
    pub index: u32,
    /// Whether it was set up (IFF_UP), with or without a carrier.
    pub up: bool,
    /// The number of the bridge, bond, VRF, … that it is a part of.
    pub master: Option<u32>,
    /// The number of the device below it (a VLAN's, a macvlan's) or of its peer (a veth's), if that is in the same namespace.
    pub lower: Option<u32>,
    /// Whether its packets begin with an Ethernet header, as those of `lo` do too.
    pub ethernet: bool,
    /// Its kind in rtnetlink: `vlan`, `bridge`, …; hardware has none.
    pub kind: Option<String>,
}

impl Device {
    /// Whether the device can be addressed by its name.
    pub fn has_readable_name(&self) -> bool {
        // No device has spaces in its name (`dev_valid_name`), but the text that stands for an unreadable one does.
        !self.name.contains(' ')
    }
}

/// The devices of the calling thread's network namespace.
///
/// # Errors
/// The kernel's error number where it refuses to list them.
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

impl From<&LinkMessage> for Device {
    fn from(link: &LinkMessage) -> Self {
        let index = link.header.index;
        let mut device = Self {
            // Unless an attribute has a name that can be read.
            name: format!("device {index} (its name is not UTF-8)"),
            index,
            up: link.header.flags.contains(LinkFlags::Up),
            ethernet: matches!(link.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback),
            ..Self::default()
        };
        let mut lower_is_elsewhere = false;
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name.clone_from(name),
                LinkAttribute::Controller(master) => device.master = Some(*master),
                LinkAttribute::Link(lower) => device.lower = Some(*lower),
                LinkAttribute::LinkNetNsId(_) => lower_is_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => device.kind = kind(infos),
                _ => {}
            }
        }
        if lower_is_elsewhere {
            device.lower = None;
        }
        device
    }
}

fn kind(infos: &[LinkInfo]) -> Option<String> {
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_device_is_listed() {
        let devices = list().unwrap();
        let lo = devices.iter().find(|device| device.name == "lo").unwrap();
        assert_eq!((lo.index, lo.ethernet, lo.master, lo.kind.as_deref()), (1, true, None, None));
        assert_eq!((index("lo"), index("none-such")), (Some(LO), None));
    }
}

//! Lists the filters of a device, of any kind and of any owner, and removes one.

use std::io;

use rtnetlink::packet_core::NLM_F_ACK;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcFilterU32Option, TcHandle, TcMessage, TcOption};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::message::{dump, message_at};
use crate::kernel::netlink;

/// Which way the packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Into this host.
    Ingress,
    /// Out of it.
    Egress,
}

impl Direction {
    /// The parent of the filters that see these packets, of `clsact` or `ingress`.
    fn parent(self) -> u32 {
        let minor = match self {
            Direction::Ingress => TcHandle::MIN_INGRESS,
            Direction::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: 0xffff, minor }.into()
    }
}

/// A filter of `clsact` or `ingress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its place: filters with lower numbers see the packet first.
    pub preference: u16,
    /// Its number within the preference; 0 for the entry that stands for the preference itself.
    pub handle: u32,
    /// The name that its owner gave to the program, for a filter of kind `bpf`.
    pub program: Option<String>,
}

/// The filters of a device in one direction: none where it has no `clsact` (nor `ingress`).
///
/// # Errors
/// The kernel's error number where it refuses to list them, for example ENODEV where the device is gone.
pub(crate) fn filters(device: u32, direction: Direction) -> io::Result<Vec<Filter>> {
    let listed = list_filters(device, direction.parent())?;
    let filter =
        |listed: ListedFilter| Filter { preference: listed.preference, handle: listed.handle, program: listed.program };
    Ok(listed.into_iter().map(filter).collect())
}

/// Removes one filter. By hand: `TrafficFilterDelRequest` of `rtnetlink` removes all of a parent.
///
/// # Errors
/// ENOENT where there is no such filter, ENODEV where the device is gone, EPERM without CAP_NET_ADMIN.
pub(crate) fn remove_filter(device: u32, direction: Direction, filter: &Filter) -> io::Result<()> {
    // The protocol belongs to the filter's identity: ETH_P_ALL, which our programs are attached with.
    const ETH_P_ALL: u16 = 3;
    let mut message = message_at(device, direction.parent(), filter.handle);
    message.header.info = u32::from(filter.preference) << 16 | u32::from(ETH_P_ALL.to_be());
    netlink::request(NETLINK_ROUTE, RouteNetlinkMessage::DelTrafficFilter(message), NLM_F_ACK).map(drop)
}

/// A filter of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedFilter {
    /// Its place: filters with lower numbers see the packet first.
    pub(crate) preference: u16,
    /// ETH_P_… in host byte order.
    pub(crate) protocol: u16,
    /// `u32`, `bpf`, …
    pub(crate) kind: String,
    /// 0 for the entry that stands for the preference itself.
    pub(crate) handle: u32,
    /// The class, for u32 entries that have one.
    pub(crate) class: Option<u32>,
    /// The name that its owner gave to the program, for a filter of kind `bpf`.
    pub(crate) program: Option<String>,
}

/// The filters of any kind that a parent asks, none where there is no such parent. `device` is the device's number.
///
/// # Errors
/// The kernel's error number where it refuses to list them, for example ENODEV where the device is gone.
pub(crate) fn list_filters(device: u32, parent: u32) -> io::Result<Vec<ListedFilter>> {
    Ok(dump(RouteNetlinkMessage::GetTrafficFilter(message_at(device, parent, 0)))?
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewTrafficFilter(filter) => Some(ListedFilter::from(filter)),
            _ => None,
        })
        .collect())
}

impl From<&TcMessage> for ListedFilter {
    fn from(message: &TcMessage) -> Self {
        let mut filter = Self {
            preference: (message.header.info >> 16) as u16,
            protocol: u16::from_be(message.header.info as u16),
            kind: String::new(),
            handle: message.header.handle.into(),
            class: None,
            program: None,
        };
        for attribute in &message.attributes {
            match attribute {
                TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
                TcAttribute::Options(options) => {
                    filter.class = options.iter().find_map(class);
                    filter.program = options.iter().find_map(program);
                }
                _ => {}
            }
        }
        filter
    }
}

fn class(option: &TcOption) -> Option<u32> {
    match option {
        TcOption::U32(TcFilterU32Option::ClassId(class)) => Some((*class).into()),
        _ => None,
    }
}

fn program(option: &TcOption) -> Option<String> {
    match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    }
}

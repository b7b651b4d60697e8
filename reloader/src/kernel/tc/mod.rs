//! Traffic control: what stands in a device's packet path, and the `clsact` qdisc.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;

use self::found::Found;
use super::netlink::{self, CREATE};

pub(crate) mod found;
#[cfg(test)]
pub(super) mod golden;
pub(crate) mod qdisc;
pub(crate) mod tables;

/// Which way the packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Into this host.
    Ingress,
    /// Out of it.
    Egress,
}

/// A filter of `clsact` or `ingress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its place: lower numbers see the packet first.
    pub preference: u16,
    /// Its number within the preference; 0 for the entry that stands for the preference itself.
    pub handle: u32,
    /// For a filter of kind `bpf`: the name that its owner gave to the program.
    pub program: Option<String>,
}

/// The filters of a device in one direction: none where it has no `clsact` (nor `ingress`).
///
/// # Errors
/// Where the kernel refuses to list them, for example because the device is gone (ENODEV).
pub fn filters(device: u32, direction: Direction) -> io::Result<Vec<Filter>> {
    let found = found::list(device, at(device, direction).header.parent.into())?;
    let filter = |found: Found| Filter { preference: found.preference, handle: found.handle, program: found.program };
    Ok(found.into_iter().map(filter).collect())
}

/// Removes one filter.
///
/// # Errors
/// ENOENT where there is no such filter, ENODEV where the device is gone, EPERM without CAP_NET_ADMIN.
pub fn remove_filter(device: u32, direction: Direction, filter: &Filter) -> io::Result<()> {
    let mut message = at(device, direction);
    message.header.handle = TcHandle::from(filter.handle);
    // The protocol belongs to the filter's identity: ETH_P_ALL, which is what programs of ours are attached with.
    const ETH_P_ALL: u16 = 3;
    message.header.info = u32::from(filter.preference) << 16 | u32::from(ETH_P_ALL.to_be());
    netlink::request(NETLINK_ROUTE, RouteNetlinkMessage::DelTrafficFilter(message), NLM_F_ACK).map(drop)
}

/// Removes `clsact` from a device, with every filter that it has.
///
/// # Errors
/// ENOENT or EINVAL where there is none, ENODEV where the device is gone, EPERM without CAP_NET_ADMIN.
fn remove_clsact(device: u32) -> io::Result<()> {
    let mut message = TcMessage::with_index(device as i32);
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle { major: 0xffff, minor: 0 };
    // With its kind the kernel refuses (EINVAL) to remove an `ingress`, which has the same handle.
    message.attributes.push(TcAttribute::Kind("clsact".into()));
    netlink::request(NETLINK_ROUTE, RouteNetlinkMessage::DelQueueDiscipline(message), NLM_F_ACK).map(drop)
}

/// Removes the `clsact` or `ingress` of a device, unless it has filters. True where there is none any more.
///
/// Between the look and the removal somebody may come to use it: netlink has no "remove if unused".
///
/// # Errors
/// Where the kernel refuses. That the device has gone is no error.
pub fn remove_unused(device: u32) -> io::Result<bool> {
    let removed = remove_unused_clsact(device)?;
    Ok(removed && (!has_ingress(device)? || gone(qdisc::remove_ingress(device).map(|()| true))?))
}

/// As [`remove_unused`], and an `ingress` is none of its business.
///
/// # Errors
/// As [`remove_unused`].
pub fn remove_unused_clsact(device: u32) -> io::Result<bool> {
    gone((|| {
        for direction in [Direction::Ingress, Direction::Egress] {
            if !filters(device, direction)?.is_empty() {
                return Ok(false);
            }
        }
        if has_clsact(device)? {
            remove_clsact(device)?;
        }
        Ok(true)
    })())
}

/// What has gone needs no removal.
fn gone(removed: io::Result<bool>) -> io::Result<bool> {
    removed.or_else(|error| match Errno::from_io_error(&error) {
        Some(Errno::NODEV | Errno::NXIO | Errno::NOENT) => Ok(true),
        _ => Err(error),
    })
}

/// Gives a device `clsact`.
///
/// # Errors
/// EEXIST where it has one, or an `ingress`; ENOENT where the kernel has no such kind; ENODEV, EPERM.
pub fn add_clsact(device: u32) -> io::Result<()> {
    let mut message = TcMessage::with_index(device as i32);
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle { major: 0xffff, minor: 0 };
    message.attributes.push(TcAttribute::Kind("clsact".into()));
    netlink::request(NETLINK_ROUTE, RouteNetlinkMessage::NewQueueDiscipline(message), CREATE).map(drop)
}

/// Whether a device has `clsact`, rather than nothing or an `ingress`.
///
/// # Errors
/// Where the kernel refuses to list the qdiscs.
pub fn has_clsact(device: u32) -> io::Result<bool> {
    has(device, "clsact")
}

/// Whether a device has `ingress`, beside which there is no `clsact`.
///
/// # Errors
/// Where the kernel refuses to list the qdiscs.
pub fn has_ingress(device: u32) -> io::Result<bool> {
    has(device, "ingress")
}

fn has(device: u32, kind: &str) -> io::Result<bool> {
    Ok(qdisc::list()?.iter().any(|qdisc| qdisc.device == device && qdisc.kind == kind))
}

/// A kernel that knows no traffic control has nothing to list.
fn dump(question: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    netlink::request(NETLINK_ROUTE, question, NLM_F_DUMP).or_else(|error| match Errno::from_io_error(&error) {
        Some(Errno::OPNOTSUPP) => Ok(Vec::new()),
        _ => Err(error),
    })
}

/// Makes a qdisc with the kernel's own defaults the root of a device.
///
/// # Errors
/// ENOENT where the kernel has no such kind, EPERM without CAP_NET_ADMIN.
pub(crate) fn add_root_qdisc(device: u32, kind: &str) -> io::Result<()> {
    let mut message = TcMessage::with_index(device as i32);
    message.header.parent = TcHandle::ROOT;
    message.header.handle = TcHandle { major: 1, minor: 0 };
    message.attributes.push(TcAttribute::Kind(kind.into()));
    netlink::request(NETLINK_ROUTE, RouteNetlinkMessage::NewQueueDiscipline(message), CREATE).map(drop)
}

fn at(device: u32, direction: Direction) -> TcMessage {
    let mut message = TcMessage::with_index(device as i32);
    let minor = match direction {
        Direction::Ingress => TcHandle::MIN_INGRESS,
        Direction::Egress => TcHandle::MIN_EGRESS,
    };
    message.header.parent = TcHandle { major: 0xffff, minor };
    message
}

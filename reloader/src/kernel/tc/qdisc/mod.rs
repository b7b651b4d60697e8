//! Lists the qdiscs of all devices, and adds and removes `prio`, `plug` and `pfifo`. Formats: linux/pkt_sched.h.

use std::io;

use rtnetlink::packet_core::{DefaultNla, NLM_F_ACK};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcMessage, TcStats2};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::message::{dump, message_at};
use crate::kernel::netlink::{self, CREATE};

/// The parent of a device's root qdisc (TC_H_ROOT). The device sends all packets through its root qdisc.
pub(crate) const ROOT: u32 = 0xffff_ffff;
/// The handle of `ingress` and `clsact`.
pub(crate) const INGRESS_HANDLE: u32 = 0xffff_0000;
/// The parent of the filters of `ingress` and `clsact` that see arriving packets (TC_H_MIN_INGRESS).
pub(crate) const INGRESS_FILTERS: u32 = 0xffff_fff2;

/// A qdisc on a device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Qdisc {
    /// The device's number.
    pub(crate) device: u32,
    /// The number of the qdisc on that device, with the major number in the upper half. The kernel's default qdisc has
    /// 0.
    pub(crate) handle: u32,
    /// The class above it, or [`ROOT`].
    pub(crate) parent: u32,
    /// `prio`, `plug`, …
    pub(crate) kind: String,
    /// Packets that have left it.
    pub(crate) sent: u64,
    /// Packets that it dropped for lack of room.
    pub(crate) dropped: u64,
    /// Packets that are in it.
    pub(crate) waiting: u64,
}

/// The qdiscs of all devices of the calling thread's network namespace.
///
/// # Errors
/// The kernel's error number where it refuses to list them.
pub(crate) fn list() -> io::Result<Vec<Qdisc>> {
    Ok(dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewQueueDiscipline(qdisc) => Some(Qdisc::from(qdisc)),
            _ => None,
        })
        .collect())
}

/// Whether the device with this number has `clsact`. Other devices have `ingress`, or neither.
///
/// # Errors
/// The kernel's error number where it refuses to list the qdiscs.
pub(crate) fn has_clsact(device: u32) -> io::Result<bool> {
    has(device, "clsact")
}

/// Whether the device with this number has `ingress`. Such a device has no `clsact`.
///
/// # Errors
/// The kernel's error number where it refuses to list the qdiscs.
pub(crate) fn has_ingress(device: u32) -> io::Result<bool> {
    has(device, "ingress")
}

fn has(device: u32, kind: &str) -> io::Result<bool> {
    Ok(list()?.iter().any(|qdisc| qdisc.device == device && qdisc.kind == kind))
}

/// Makes a qdisc with the kernel's own defaults the root of a device.
///
/// # Errors
/// ENOENT where the kernel has no such kind, EPERM without CAP_NET_ADMIN.
pub(crate) fn add_root(device: u32, kind: &str) -> io::Result<()> {
    const HANDLE: u32 = 0x1_0000;
    let mut message = message_at(device, ROOT, HANDLE);
    message.attributes.push(TcAttribute::Kind(kind.into()));
    change(message, CREATE)
}

/// Makes `prio` with 16 bands the root of a device; every packet that no filter puts elsewhere goes to the first band.
///
/// # Errors
/// EEXIST where the root is not the kernel's default, ENOENT where the kernel has no prio, EPERM without CAP_NET_ADMIN.
pub(crate) fn add_prio(device: u32, handle: u32) -> io::Result<()> {
    change(prio(device, handle), CREATE)
}

/// Adds a plug. It holds packets from its creation on, up to `limit` bytes, and drops the rest.
///
/// # Errors
/// EEXIST where the handle or the place is taken, ENOENT where the parent is not there or the kernel has no plug.
pub(crate) fn add_plug(device: u32, parent: u32, handle: u32, limit: u32) -> io::Result<()> {
    change(plug(device, parent, handle, TCQ_PLUG_LIMIT, limit), CREATE)
}

/// Releases all packets that a plug holds, and lets new packets pass.
///
/// # Errors
/// ENOENT if the plug is gone.
pub(crate) fn unplug(device: u32, parent: u32, handle: u32) -> io::Result<()> {
    change(plug(device, parent, handle, TCQ_PLUG_RELEASE_INDEFINITE, 0), NLM_F_ACK)
}

/// Removes a qdisc with all packets and classes that are in it.
///
/// # Errors
/// ENOENT or EINVAL if the qdisc is gone.
pub(crate) fn remove(device: u32, parent: u32, handle: u32) -> io::Result<()> {
    let message = RouteNetlinkMessage::DelQueueDiscipline(message_at(device, parent, handle));
    netlink::request(NETLINK_ROUTE, message, NLM_F_ACK).map(drop)
}

const TCQ_PLUG_RELEASE_INDEFINITE: i32 = 2;
const TCQ_PLUG_LIMIT: i32 = 3;
const TCA_OPTIONS: u16 = 2;

fn change(message: TcMessage, flags: u16) -> io::Result<()> {
    netlink::request(NETLINK_ROUTE, RouteNetlinkMessage::NewQueueDiscipline(message), flags).map(drop)
}

/// Adds a `pfifo` with the kernel's own limit.
///
/// # Errors
/// EEXIST where the class has a qdisc, ENOENT where there is no such class, EPERM without CAP_NET_ADMIN.
pub(crate) fn add_pfifo(device: u32, parent: u32, handle: u32) -> io::Result<()> {
    let mut message = message_at(device, parent, handle);
    message.attributes.push(TcAttribute::Kind("pfifo".into()));
    change(message, CREATE)
}

/// The message of a `prio`. Its options are `struct tc_prio_qopt`: int bands, u8 priomap[TC_PRIO_MAX + 1]. They are in
/// the machine's byte order, and not nested.
fn prio(device: u32, handle: u32) -> TcMessage {
    const BANDS: i32 = 16;
    let mut options = BANDS.to_ne_bytes().to_vec();
    options.extend([0; 16]);
    // The options end with an empty attribute (length 4, number 2), as tc sends them. It once had the options of devices with many queues.
    options.extend([4_u16, TCA_OPTIONS].iter().flat_map(|half| half.to_ne_bytes()));
    with_options(message_at(device, ROOT, handle), "prio", options)
}

/// The message of a plug. Its options are `struct tc_plug_qopt`: int action, u32 limit.
fn plug(device: u32, parent: u32, handle: u32, action: i32, limit: u32) -> TcMessage {
    let mut options = action.to_ne_bytes().to_vec();
    options.extend(limit.to_ne_bytes());
    with_options(message_at(device, parent, handle), "plug", options)
}

fn with_options(mut message: TcMessage, kind: &str, options: Vec<u8>) -> TcMessage {
    message.attributes.push(TcAttribute::Kind(kind.into()));
    // `TcAttribute::Options` would nest the options.
    message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)));
    message
}

impl From<&TcMessage> for Qdisc {
    fn from(message: &TcMessage) -> Self {
        let mut qdisc = Self {
            device: message.header.index as u32,
            handle: message.header.handle.into(),
            parent: message.header.parent.into(),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                TcAttribute::Kind(kind) => qdisc.kind.clone_from(kind),
                TcAttribute::Stats2(stats) => stats.iter().for_each(|stats| qdisc.count(stats)),
                _ => {}
            }
        }
        qdisc
    }
}

impl Qdisc {
    fn count(&mut self, stats: &TcStats2) {
        match stats {
            TcStats2::Basic(basic) => self.sent = basic.packets.into(),
            TcStats2::Queue(queue) => {
                self.waiting = queue.qlen.into();
                self.dropped = queue.drops.into();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;

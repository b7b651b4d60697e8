//! The qdiscs `clsact` and `ingress`, whose filters see all packets of a device. A device has one of them at most.

use std::io;

use futures_util::stream::StreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle};
use rustix::io::Errno;

use super::filters::{Direction, filters};
use super::message::message_at;
use super::qdisc::{INGRESS_HANDLE, has_clsact, has_ingress};
use crate::kernel::netlink::{self, CREATE};

/// Adds `clsact` to the device with this number.
///
/// # Errors
/// EEXIST if the device already has `clsact` or `ingress`; ENOENT if the kernel has no `clsact`; ENODEV if there is no
/// such device; EPERM without CAP_NET_ADMIN.
pub(crate) fn add_clsact(device: u32) -> io::Result<()> {
    netlink::execute(&format_args!("adding clsact to device {device}"), |handle| clsact_addition(handle, device))
}

/// Adds `ingress` to the device with this number.
///
/// # Errors
/// EEXIST if the device already has `ingress` or `clsact`; EPERM without CAP_NET_ADMIN.
pub(crate) fn add_ingress(device: u32) -> io::Result<()> {
    netlink::execute(&format_args!("adding ingress to device {device}"), |handle| ingress_addition(handle, device))
}

/// Removes `ingress` with all its filters. It does not remove `clsact`: the kernel answers EINVAL.
///
/// # Errors
/// ENOENT or EINVAL if the device has no `ingress`; EBUSY while another process works with its filters.
pub(crate) fn remove_ingress(device: u32) -> io::Result<()> {
    remove(device, "ingress")
}

/// Removes the `clsact` or `ingress` of a device, unless it has filters. Returns true if the device has neither of them
/// any more.
///
/// Another process may begin to use the qdisc between the check and the removal: netlink has no "remove if unused".
///
/// # Errors
/// The kernel's error number where it refuses. It is not an error if the device is gone.
pub(crate) fn remove_unused(device: u32) -> io::Result<bool> {
    let removed = remove_unused_clsact(device)?;
    Ok(removed && (!has_ingress(device)? || tolerate_absence(remove_ingress(device).map(|()| true))?))
}

/// As [`remove_unused`], but leaves an `ingress` alone.
///
/// # Errors
/// As [`remove_unused`].
pub(crate) fn remove_unused_clsact(device: u32) -> io::Result<bool> {
    tolerate_absence((|| {
        for direction in [Direction::Ingress, Direction::Egress] {
            if !filters(device, direction)?.is_empty() {
                return Ok(false);
            }
        }
        if has_clsact(device)? {
            remove(device, "clsact")?;
        }
        Ok(true)
    })())
}

/// True where the object, or its device, is gone already.
fn tolerate_absence(removed: io::Result<bool>) -> io::Result<bool> {
    removed.or_else(|error| match Errno::from_io_error(&error) {
        Some(Errno::NODEV | Errno::NXIO | Errno::NOENT) => Ok(true),
        _ => Err(error),
    })
}

fn remove(device: u32, kind: &'static str) -> io::Result<()> {
    netlink::execute(&format_args!("removing {kind} from device {device}"), |handle| removal(handle, device, kind))
}

/// Writes the message by hand: `rtnetlink` has a builder for `ingress` only.
async fn clsact_addition(mut handle: Handle, device: u32) -> Result<(), rtnetlink::Error> {
    let mut message = message_at(device, TcHandle::CLSACT.into(), INGRESS_HANDLE);
    message.attributes.push(TcAttribute::Kind("clsact".into()));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
    request.header.flags = NLM_F_REQUEST | CREATE;
    let mut answers = handle.request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload {
            return Err(rtnetlink::Error::NetlinkError(error));
        }
    }
    Ok(())
}

async fn ingress_addition(handle: Handle, device: u32) -> Result<(), rtnetlink::Error> {
    handle.qdisc().add(device as i32).ingress().execute().await
}

async fn removal(handle: Handle, device: u32, kind: &str) -> Result<(), rtnetlink::Error> {
    let mut request = handle.qdisc().del(device as i32);
    let message = request.message_mut();
    *message = message_at(device, TcHandle::INGRESS.into(), INGRESS_HANDLE);
    // Both qdiscs have the same handle. The kind makes the kernel refuse (EINVAL) to remove the other one.
    message.attributes.push(TcAttribute::Kind(kind.into()));
    request.execute().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::devices::LO;
    use crate::kernel::tc::golden::hex_sent;

    #[test]
    fn ingress_is_added_and_removed_with_the_bytes_of_tc() {
        // tc qdisc add dev lo ingress
        let expected = "300000002400050600000000000000000000000001000000\
            0000fffff1ffffff000000000c000100696e677265737300";
        assert_eq!(hex_sent(|handle| ingress_addition(handle, LO)), expected);
        // tc qdisc del dev lo ingress
        let expected = "300000002500050000000000000000000000000001000000\
            0000fffff1ffffff000000000c000100696e677265737300";
        assert_eq!(hex_sent(|handle| removal(handle, LO, "ingress")), expected);
    }

    #[test]
    fn clsact_is_added_and_removed_with_the_bytes_of_tc() {
        // tc qdisc add dev lo clsact
        let expected = "300000002400050600000000000000000000000001000000\
            0000fffff1ffffff000000000b000100636c736163740000";
        assert_eq!(hex_sent(|handle| clsact_addition(handle, LO)), expected);
        // tc qdisc del dev lo clsact
        let expected = "300000002500050000000000000000000000000001000000\
            0000fffff1ffffff000000000b000100636c736163740000";
        assert_eq!(hex_sent(|handle| removal(handle, LO, "clsact")), expected);
    }
}

//! Reads from a socket where it listens.

use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use socket2::{Domain, SockRef, Type};

use crate::model::SocketMetadata;
use crate::model::listener::{Address, Endpoint, Listener, SocketType};
use crate::sys;

/// The protocol number of Multipath TCP (linux/in.h).
const IPPROTO_MPTCP: i32 = 262;

/// Stands for the name of a device that has gone. No device has such a name (`dev_valid_name`).
const UNKNOWN_DEVICE: &str = "a device that has gone";

/// The listener behind a descriptor. `None` if the descriptor is neither a listening socket nor a bound datagram socket.
///
/// The address, type and flags are read from the socket. The namespace comes from `record`.
pub(super) fn describe(fd: BorrowedFd<'_>, record: &SocketMetadata) -> Option<Listener> {
    let socket = SockRef::from(&fd);
    let socket_type = match socket.r#type().ok()? {
        Type::STREAM if socket.is_listener().ok()? => SocketType::Stream,
        Type::DGRAM => SocketType::Datagram,
        _ => return None,
    };
    let local = socket.local_addr().ok()?;
    let address = match local.as_socket() {
        Some(address) => Address::Inet(address),
        None => unix_address(&local)?,
    };
    let v6only = socket.domain().ok()? == Domain::IPV6 && socket.only_v6().ok()?;
    let interface = interface_of(&socket, record)?;
    let mptcp = sys::protocol(fd).ok()? == IPPROTO_MPTCP;
    let netns = (!record.netns.is_empty()).then(|| String::from_utf8_lossy(&record.netns).into_owned());
    let inode = rustix::fs::fstat(fd).ok()?.st_ino;
    Some(Listener { endpoint: Endpoint { address, socket_type, mptcp, v6only, interface, netns }, inode })
}

/// The device of a socket by its name. The kernel does not tell the name of a device that has gone (ENODEV); the name from `record` is used then.
fn interface_of(socket: &SockRef<'_>, record: &SocketMetadata) -> Option<Option<String>> {
    match socket.device() {
        Ok(name) => Some(name.map(|name| String::from_utf8_lossy(&name).into_owned())),
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {
            let known = String::from_utf8_lossy(&record.interface).into_owned();
            Some(Some(if known.is_empty() { UNKNOWN_DEVICE.into() } else { known }))
        }
        Err(_) => None,
    }
}

fn unix_address(local: &socket2::SockAddr) -> Option<Address> {
    if let Some(name) = local.as_abstract_namespace() {
        return Address::from_unix_name(&[b"\0", name].concat());
    }
    Address::from_unix_name(local.as_pathname()?.as_os_str().as_bytes())
}

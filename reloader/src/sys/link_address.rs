//! Builds addresses of packet sockets (packet(7)).

use nix::libc;
use socket2::{SockAddr, SockAddrStorage};

/// The address with which a packet socket sends a frame on a device. `device` is the device's index, `ethertype` is in host byte order.
pub(crate) fn link_address(device: u32, ethertype: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is large enough and aligned for any socket address, and zeroes are a valid sockaddr_ll.
    let address: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = device as i32;
    // SAFETY: the storage holds a sockaddr_ll with its family, and the length is that of a sockaddr_ll.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

//! The address of packet(7).

use nix::libc;
use socket2::{SockAddr, SockAddrStorage};

/// Sends a frame out by this device (its number), as one of this EtherType (host byte order).
pub(crate) fn link_address(device: u32, ethertype: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a sockaddr_ll is one of the addresses that the storage is for; zeroes are a value of it.
    let address: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = device as i32;
    // SAFETY: the storage holds a sockaddr_ll with its family.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

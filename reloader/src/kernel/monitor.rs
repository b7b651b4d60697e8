//! Notice of devices and addresses that come and go.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;

/// The multicast groups of rtnetlink(7) (`RTMGRP_*` in linux/rtnetlink.h).
const LINK: u32 = 1;
const IPV4_ADDRESS: u32 = 0x10;
const IPV6_ADDRESS: u32 = 0x100;

/// Readable whenever a device or an address of its network namespace has changed.
pub(crate) struct Monitor(Socket);

impl Monitor {
    /// Begins in the network namespace of the calling thread.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(crate) fn begin() -> io::Result<Monitor> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, LINK | IPV4_ADDRESS | IPV6_ADDRESS))?;
        socket.set_non_blocking(true)?;
        Ok(Monitor(socket))
    }

    /// Takes all notices. Whoever is told that something changed looks at everything again, so that a notice the kernel had
    /// to drop (ENOBUFS) is no loss.
    pub(crate) fn take(&mut self) {
        while match self.0.recv_from_full() {
            Ok(_) => true,
            Err(error) => error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()),
        } {}
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

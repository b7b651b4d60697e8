//! Tells that devices or addresses have come or gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rtnetlink::MulticastGroup;

use super::netlink::Notices;

/// Watches a network namespace. It is readable when a device or an address of the namespace has changed.
pub(crate) struct Monitor(Notices);

impl Monitor {
    /// Watches the network namespace of the calling thread from now on.
    ///
    /// # Errors
    /// Where the kernel gives no socket.
    pub(crate) fn begin() -> io::Result<Monitor> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        Notices::subscribe(&groups).map(Monitor)
    }

    /// Takes all notices. After that the caller lists everything again, so a notice that was dropped is no loss.
    pub(crate) fn take(&mut self) {
        self.0.take();
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

//! Registers descriptors with the runtime, which then waits for their readiness.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor that becomes readable on an event (a pidfd, an inotify).
///
/// # Errors
/// The error of epoll_ctl(2).
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: `register` requires that the descriptor stays open, with the same number, until the AsyncFd is dropped. An OwnedFd
    // is closed only when it is dropped, and its number never changes. The AsyncFd owns it and deregisters it first.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

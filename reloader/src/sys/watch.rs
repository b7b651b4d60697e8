//! Descriptors whose readiness the runtime waits for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor that the kernel makes readable when something happened (a pidfd, an inotify).
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: `register` asks that the descriptor stays open, and the same one, until the AsyncFd is dropped. An
    // OwnedFd is closed only when dropped, its number never changes, and the AsyncFd owns it and deregisters first.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

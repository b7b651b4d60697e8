//! Passes descriptors over unix sockets (SCM_RIGHTS, unix(7)): to and from HAProxy, and from a hold's worker to its guard.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// The number of descriptors that the kernel takes with one message (SCM_MAX_FD).
pub(crate) const MAX_DESCRIPTORS: usize = 253;

/// The descriptors that came with a message.
pub(crate) enum Descriptors {
    /// All that were sent, close-on-exec.
    All(Vec<OwnedFd>),
    /// The kernel could not install all of them, because this process has reached its limit (RLIMIT_NOFILE).
    Truncated,
}

/// Sends one message, and returns how many of its bytes were taken. An empty `descriptors` sends none; there may be
/// [`MAX_DESCRIPTORS`].
///
/// # Errors
/// The error of sendmsg(2).
pub(crate) fn send(to: impl AsFd, data: &[u8], descriptors: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<usize> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let sent = retry_on_intr(|| sendmsg(&to, &[IoSlice::new(data)], &mut ancillary, flags | SendFlags::NOSIGNAL))?;
    Ok(sent)
}

/// Receives one message into `buffer`, and returns its length in bytes: 0 when the other side has closed.
///
/// # Errors
/// The error of recvmsg(2).
pub(crate) fn receive(from: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Descriptors)> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    // With a timeout on the socket the kernel does not restart the call after a signal (`sock_intr_errno`).
    let received =
        retry_on_intr(|| recvmsg(&from, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC))?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Ok((received.bytes, Descriptors::Truncated));
    }
    Ok((received.bytes, Descriptors::All(descriptors)))
}

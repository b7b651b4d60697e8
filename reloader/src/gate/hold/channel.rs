//! What holder and guard say to each other, over a pair of connected sockets.
//!
//! The holder's death closes its end: the guard hears of it from the kernel, whatever the holder died of.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Backend, Figures, Keepsake};

/// How many descriptors go with one message: the kernel's limit is 253 (SCM_MAX_FD).
const BATCH: usize = 200;

/// The longest message, in bytes: a manifest grows with the number of devices.
const LONGEST: usize = 1 << 17;

/// From the holder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToGuard {
    /// Some of the keepsake's descriptors; the others follow.
    Descriptors,
    /// The rest of them, and what they are for.
    Keepsake { id: u16, backend: Backend, record: std::path::PathBuf, manifest: serde_json::Value },
    /// Everything is delivered: let go of the descriptors.
    Delivered,
    /// Everything is removed: end.
    Done,
}

/// From the guard.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ToHolder {
    /// Understood, and done.
    Agreed,
    /// Somebody asked for the release: the holder may do it itself.
    Asked,
    /// The holder did not, so it was done for him.
    Lifted { figures: Figures, trouble: Option<String> },
}

/// A connected pair of sockets that keeps messages apart.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends a keepsake with its descriptors.
pub(super) fn send_keepsake(
    to: BorrowedFd<'_>,
    id: u16,
    backend: Backend,
    record: (&std::path::Path, BorrowedFd<'_>),
    keepsake: Keepsake,
) -> io::Result<()> {
    let Keepsake { manifest, descriptors } = keepsake;
    let mut all: Vec<BorrowedFd<'_>> = vec![record.1];
    all.extend(descriptors.iter().map(|fd| fd.as_fd()));
    let last = all.split_off((all.len() - 1) / BATCH * BATCH);
    for batch in all.chunks(BATCH) {
        send_with(to, &ToGuard::Descriptors, batch)?;
    }
    let message = ToGuard::Keepsake { id, backend, record: record.0.to_owned(), manifest };
    send_with(to, &message, &last)
}

/// Sends one message.
pub(super) fn send<M: Serialize>(to: BorrowedFd<'_>, message: &M) -> io::Result<()> {
    send_with(to, message, &[])
}

fn send_with<M: Serialize>(to: BorrowedFd<'_>, message: &M, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let data = serde_json::to_vec(message)?;
    if data.len() > LONGEST {
        return Err(io::Error::other("the hold has too many devices for its guard"));
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    retry_on_intr(|| sendmsg(to, &[IoSlice::new(&data)], &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// The next message with its descriptors; `None` when the other side has closed.
pub(super) fn receive<M: DeserializeOwned>(from: BorrowedFd<'_>) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut data = vec![0; LONGEST];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        retry_on_intr(|| recvmsg(from, &mut [IoSliceMut::new(&mut data)], &mut ancillary, RecvFlags::CMSG_CLOEXEC))?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("descriptors were lost on the way: this process may not hold that many"));
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&data[..received.bytes])?, descriptors)))
}

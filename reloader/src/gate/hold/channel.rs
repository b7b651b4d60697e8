//! What holder and guard say to each other, over a pair of connected sockets.
//!
//! The holder's death closes its end: the guard hears of it from the kernel, whatever the holder died of.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::own_entry::OwnEntry;
use super::{Backend, Handover, HoldStats};
use crate::kernel::scm_rights::{self, Descriptors};

/// How many descriptors go with one message.
const BATCH: usize = scm_rights::MAX_DESCRIPTORS;

/// The longest message, in bytes: a manifest grows with the number of devices.
const LONGEST: usize = 1 << 17;

/// From the holder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToGuard {
    /// The hold that it is about, before anything of it is put anywhere. With the record, the file with its ports, the eventfd that says
    /// that the old server leaves, and the name if there is one.
    Assign(Assignment),
    /// Some of the keepsake's descriptors; the others follow.
    Descriptors,
    /// The rest of them, and what they are for.
    Handover(Entrusted),
    /// The holder lives.
    Alive,
    /// The holder delivers: nothing is heard of it until that is done.
    Delivers,
    /// Everything is delivered: let go of the descriptors.
    Delivered,
    /// Everything is removed: end.
    Done,
}

/// Which hold a guard is for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Assignment {
    pub(super) id: u16,
    pub(super) record: std::path::PathBuf,
}

/// What goes with a keepsake.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entrusted {
    pub(super) backend: Backend,
    /// When the hold ends at the latest, in nanoseconds of CLOCK_MONOTONIC.
    pub(super) end: u64,
    pub(super) manifest: serde_json::Value,
}

/// From the guard.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ToHolder {
    /// Understood, and done.
    Ack,
    /// Somebody asked for the release: the holder may do it itself.
    Asked,
    /// The holder did not, so it was done for him.
    Lifted { figures: HoldStats, trouble: Option<String> },
}

/// A connected pair of sockets that keeps messages apart.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends which hold it is about, with what says that it lives.
pub(super) fn send_charge(to: BorrowedFd<'_>, claim: &OwnEntry, ports: &File, leaving: &OwnedFd) -> io::Result<()> {
    let charge = Assignment { id: claim.id(), record: claim.path().to_owned() };
    let always = [claim.file().as_fd(), ports.as_fd(), leaving.as_fd()];
    let descriptors: Vec<_> = always.into_iter().chain(claim.name().map(AsFd::as_fd)).collect();
    send_with(to, &ToGuard::Assign(charge), &descriptors, SendFlags::empty())
}

/// Sends a keepsake with its descriptors.
pub(super) fn send_keepsake(to: BorrowedFd<'_>, backend: Backend, end: u64, keepsake: Handover) -> io::Result<()> {
    let Handover { manifest, descriptors } = keepsake;
    let mut all: Vec<BorrowedFd<'_>> = descriptors.iter().map(|fd| fd.as_fd()).collect();
    let last = all.split_off(all.len().saturating_sub(1) / BATCH * BATCH);
    for batch in all.chunks(BATCH) {
        send_with(to, &ToGuard::Descriptors, batch, SendFlags::empty())?;
    }
    send_with(to, &ToGuard::Handover(Entrusted { backend, end, manifest }), &last, SendFlags::empty())
}

/// Sends one message.
pub(super) fn send<M: Serialize>(to: BorrowedFd<'_>, message: &M) -> io::Result<()> {
    send_with(to, message, &[], SendFlags::empty())
}

/// Sends one message unless the other side is far behind.
pub(super) fn send_if_room<M: Serialize>(to: BorrowedFd<'_>, message: &M) -> io::Result<()> {
    send_with(to, message, &[], SendFlags::DONTWAIT)
}

/// How long a message may wait for the other side to make room.
pub(super) fn set_patience(socket: BorrowedFd<'_>, time: Duration) -> io::Result<()> {
    Ok(set_socket_timeout(socket, Timeout::Send, Some(time))?)
}

fn send_with<M: Serialize>(
    to: BorrowedFd<'_>,
    message: &M,
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let data = serde_json::to_vec(message)?;
    if data.len() > LONGEST {
        return Err(io::Error::other("the hold has too many devices for its guard"));
    }
    scm_rights::send(to, &data, descriptors, flags)?;
    Ok(())
}

/// The next message with its descriptors; `None` when the other side has closed.
pub(super) fn receive<M: DeserializeOwned>(from: BorrowedFd<'_>) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut data = vec![0; LONGEST];
    let (length, descriptors) = scm_rights::receive(from, &mut data)?;
    let Descriptors::All(descriptors) = descriptors else {
        return Err(io::Error::other("descriptors were lost on the way: this process may not hold that many"));
    };
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&data[..length])?, descriptors)))
}

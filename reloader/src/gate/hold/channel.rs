//! The messages of holder and guard, over a pair of connected sockets.
//!
//! When the holder dies, the kernel closes its end of the pair. So the guard learns it, whatever the holder died of.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::own_entry::OwnEntry;
use crate::gate::contract::{Backend, Handover, HoldStats};
use crate::kernel::scm_rights::{self, Descriptors};

/// How many descriptors go with one message.
const BATCH: usize = scm_rights::MAX_DESCRIPTORS;

/// The longest message, in bytes. A manifest grows with the number of devices.
const MAX_MESSAGE: usize = 1 << 17;

/// A message from the holder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToGuard {
    /// Which hold the guard is for, before anything of it is in the kernel. The descriptors of the registry entry, of the file with the
    /// ports, of the eventfd that tells that the old server leaves, and of the liveness socket, if there is one, come with it.
    Assign(Assignment),
    /// Some descriptors of the handover. More follow.
    Descriptors,
    /// The other descriptors, and the rest of the handover.
    Handover(HandoverMessage),
    /// The holder lives.
    Alive,
    /// The holder delivers. It says nothing until that is done.
    Delivers,
    /// Everything is delivered. The guard is to close its duplicates.
    Delivered,
    /// Everything is removed. The guard is to end.
    Done,
}

/// Which hold a guard is for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Assignment {
    /// The hold's id.
    pub(super) id: u16,
    /// The path of its registry entry.
    pub(super) entry: PathBuf,
}

/// A handover without its descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HandoverMessage {
    /// The gate.
    pub(super) backend: Backend,
    /// When the hold ends at the latest, in nanoseconds of CLOCK_MONOTONIC.
    pub(super) end: u64,
    /// What the gate says about itself.
    pub(super) manifest: serde_json::Value,
}

/// A message from the guard.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ToHolder {
    /// The last message was understood and carried out.
    Ack,
    /// `reloader release` asked for the release. The holder may carry it out itself.
    Asked,
    /// The holder did not release, so the guard did.
    Lifted { stats: HoldStats, doubt: Option<String> },
}

/// A connected pair of sockets that preserves the bounds of messages.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Tells the guard which hold it is for. While the guard has the descriptors, the hold counts as living.
pub(super) fn send_assignment(
    to: BorrowedFd<'_>,
    entry: &OwnEntry,
    ports: &File,
    old_leaving: &OwnedFd,
) -> io::Result<()> {
    let assignment = Assignment { id: entry.id(), entry: entry.path().to_owned() };
    let always = [entry.file().as_fd(), ports.as_fd(), old_leaving.as_fd()];
    let descriptors: Vec<_> = always.into_iter().chain(entry.liveness_socket().map(AsFd::as_fd)).collect();
    send_with(to, &ToGuard::Assign(assignment), &descriptors, SendFlags::empty())
}

/// Sends a handover with its descriptors. `end` is in nanoseconds of CLOCK_MONOTONIC.
pub(super) fn send_handover(to: BorrowedFd<'_>, backend: Backend, end: u64, handover: Handover) -> io::Result<()> {
    let Handover { manifest, descriptors } = handover;
    let mut all: Vec<BorrowedFd<'_>> = descriptors.iter().map(|fd| fd.as_fd()).collect();
    let last = all.split_off(all.len().saturating_sub(1) / BATCH * BATCH);
    for batch in all.chunks(BATCH) {
        send_with(to, &ToGuard::Descriptors, batch, SendFlags::empty())?;
    }
    send_with(to, &ToGuard::Handover(HandoverMessage { backend, end, manifest }), &last, SendFlags::empty())
}

/// Sends one message.
pub(super) fn send<M: Serialize>(to: BorrowedFd<'_>, message: &M) -> io::Result<()> {
    send_with(to, message, &[], SendFlags::empty())
}

/// Sends one message, unless the other side has not read many earlier ones.
///
/// # Errors
/// EAGAIN where there is no room.
pub(super) fn send_if_room<M: Serialize>(to: BorrowedFd<'_>, message: &M) -> io::Result<()> {
    send_with(to, message, &[], SendFlags::DONTWAIT)
}

/// Sets how long a message waits for the other side to make room.
pub(super) fn set_send_timeout(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    Ok(set_socket_timeout(socket, Timeout::Send, Some(timeout))?)
}

fn send_with<M: Serialize>(
    to: BorrowedFd<'_>,
    message: &M,
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let data = serde_json::to_vec(message)?;
    if data.len() > MAX_MESSAGE {
        return Err(io::Error::other("the hold has too many devices for its guard"));
    }
    scm_rights::send(to, &data, descriptors, flags)?;
    Ok(())
}

/// Receives the next message with its descriptors. `None` where the other side has closed.
///
/// # Errors
/// Where the message cannot be read, or this process cannot have that many descriptors.
pub(super) fn receive<M: DeserializeOwned>(from: BorrowedFd<'_>) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut data = vec![0; MAX_MESSAGE];
    let (length, descriptors) = scm_rights::receive(from, &mut data)?;
    let Descriptors::All(descriptors) = descriptors else {
        return Err(io::Error::other("descriptors were lost: this process may not have that many open files"));
    };
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&data[..length])?, descriptors)))
}

//! Tells the service manager about readiness, status, the watchdog and descriptors to keep (sd_notify(3)). Silent without NOTIFY_SOCKET.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// How long systemd may take to read its messages.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(1);

/// Tells that the first generation serves.
pub(crate) fn ready() {
    send(&[NotifyState::Ready]);
}

/// Tells a service manager that waits for [`ready`] to wait until `limit` from now at least (`EXTEND_TIMEOUT_USEC` of sd_notify(3)).
pub(crate) fn still_starting(limit: Duration) {
    send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(limit.as_micros()).unwrap_or(u32::MAX))]);
}

/// Tells that the daemon reads its configuration again. [`ready`] tells that this is done.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// Tells that the daemon is ending.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Sets the line that `systemctl status` shows.
pub(crate) fn status(line: &str) {
    send(&[NotifyState::Status(line)]);
}

/// Tells the watchdog that the loops are alive.
pub(crate) fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// Gives the service manager a duplicate of the socket, to keep under this name for the next daemon.
pub(crate) fn store(name: &str, socket: &OwnedFd) {
    let states = [NotifyState::FdStore, NotifyState::FdName(name)];
    if let Err(error) = sd_notify::notify_with_fds(&states, &[socket.as_fd()]) {
        log::warn!("{name} could not be given to the fd store: {error}");
    }
}

/// Asks the service manager to close the socket that it keeps under this name.
pub(crate) fn forget(name: &str) {
    send(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// Waits until systemd (from version 246 on) has done everything that it was told so far; no longer than a second.
pub(crate) async fn barrier() {
    let Ok((reader, writer)) = std::io::pipe() else { return };
    let Ok(mut reader) = pipe::Receiver::from_owned_fd(reader.into()) else { return };
    // systemd closes the descriptor when it has handled all earlier messages (sd_notify_barrier(3)).
    if let Err(error) = sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[writer.as_fd()]) {
        return log::debug!("sd_notify: {error}");
    }
    drop(writer);
    if tokio::time::timeout(BARRIER_TIMEOUT, reader.read(&mut [0])).await.is_err() {
        log::warn!("systemd did not read within {BARRIER_TIMEOUT:?} which sockets it is to close");
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("sd_notify: {error}");
    }
}

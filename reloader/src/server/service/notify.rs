//! Receives the readiness of a server by the protocol of sd_notify(3).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::unistd::User;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::set_socket_passcred};
use tokio::io::unix::AsyncFd;

use crate::process;
use crate::sys;

/// The longest message, in bytes.
const LONGEST: usize = 4096;

/// The socket of one generation.
#[derive(Debug)]
pub(super) struct Socket(AsyncFd<std::os::fd::OwnedFd>);

impl Socket {
    /// The user that the server runs as may write to it.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn bind(path: &Path, user: Option<&str>) -> Result<Socket, String> {
        let bind = || -> io::Result<Socket> {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let socket = UnixDatagram::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            let found = user.map(User::from_name).transpose()?.flatten();
            if let Some(user) = found {
                chown(path, Some(user.uid.as_raw()), None)?;
            }
            socket.set_nonblocking(true)?;
            set_socket_passcred(&socket, true)?;
            Ok(Socket(sys::watch(socket.into())?))
        };
        bind().map_err(|error| format!("cannot listen for notifications on {}: {error}", path.display()))
    }

    /// Waits until a process of the tree of `root` says `READY=1`.
    pub(super) async fn ready(&self, root: u32) -> io::Result<()> {
        loop {
            let mut readable = self.0.readable().await?;
            match receive(self.0.get_ref()) {
                Ok((text, sender)) if says_ready(&text) => {
                    if sender.is_some_and(|pid| process::is_descendant(pid, root)) {
                        return Ok(());
                    }
                    log::warn!("READY=1 of process {sender:?} is not believed: it does not belong to process {root}");
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => readable.clear_ready(),
                Err(error) => return Err(error),
            }
        }
    }
}

fn receive(socket: &std::os::fd::OwnedFd) -> io::Result<(Vec<u8>, Option<u32>)> {
    let mut text = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(16))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid.as_raw_nonzero().get() as u32),
        // Descriptors (FDSTORE=1) are closed by being dropped.
        _ => None,
    });
    text.truncate(received.bytes);
    Ok((text, sender))
}

fn says_ready(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readiness_counts_only_from_processes_of_the_tree() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = Socket::bind(&path, None).unwrap();
        let own = std::process::id();
        let client = UnixDatagram::unbound().unwrap();
        client.send_to(b"STATUS=soon", &path).unwrap();
        client.send_to(b"STATUS=now\nREADY=1\n", &path).unwrap();
        socket.ready(own).await.unwrap();
        client.send_to(b"READY=1", &path).unwrap();
        let stranger = tokio::time::timeout(std::time::Duration::from_millis(50), socket.ready(u32::MAX >> 1)).await;
        assert!(stranger.is_err());
    }
}

//! Old listeners that must be gone: a descriptor that is closed is no listener that is closed. While a thread sits in accept(2) on it,
//! or another process has it too, the kernel listens on.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::aside::aside;
use super::retire::LOOK_INTERVAL;
use crate::custody::Custody;
use crate::kernel::sock_diag;
use crate::listener::{Listener, Owned};
use crate::process::Handle;

/// The TCP listeners of a generation that is to make room, and duplicates of them, as far as they could be had.
pub(super) struct OldListeners {
    inodes: HashSet<u64>,
    duplicates: Vec<Arc<OwnedFd>>,
}

impl OldListeners {
    /// While the generation still has them.
    pub(super) fn of(old: &[Owned], custody: &Custody) -> OldListeners {
        let tcp: Vec<&Listener> =
            old.iter().map(|owned| &owned.listener).filter(|listener| listener.endpoint.is_tcp_here()).collect();
        let duplicate = |listener: &&Listener| {
            let held = custody.held().iter().find(|held| held.listener.inode == listener.inode);
            held.map(|held| held.fd.clone()).or_else(|| {
                let owner = custody.owner(listener.inode)?;
                Handle::duplicate(owner, listener.inode).ok().map(Arc::new)
            })
        };
        let duplicates = tcp.iter().filter_map(duplicate).collect();
        OldListeners { inodes: tcp.iter().map(|listener| listener.inode).collect(), duplicates }
    }

    /// Once it has closed them. False where the kernel still listens after `patience`.
    pub(super) async fn stop(self, patience: Duration) -> bool {
        let OldListeners { inodes, duplicates } = self;
        let deadline = Instant::now() + patience;
        aside(move || duplicates.iter().for_each(|socket| stop_listening(socket))).await;
        loop {
            let inodes = inodes.clone();
            let listens = move || {
                // Where the kernel does not say, the start of the next generation will.
                sock_diag::tcp_listeners().is_ok_and(|all| all.iter().any(|found| inodes.contains(&found.inode)))
            };
            if !aside(listens).await {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// For everybody who has it, and before this returns: shutdown(2) runs `inet_csk_listen_stop`, or waits for whoever runs it. So a queue that
/// migrates does so now, and not when whoever closed the socket comes round to its release, long after its descriptor is gone from /proc; and
/// accept(2) returns with EINVAL.
pub(super) fn stop_listening(socket: &OwnedFd) {
    match rustix::net::shutdown(socket, rustix::net::Shutdown::Both) {
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => {}
        Err(error) => log::error!("a listener was not stopped: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn a_listener_whose_thread_sits_in_accept_is_stopped() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
        let duplicates = vec![Arc::new(listener.as_fd().try_clone_to_owned().unwrap())];
        let thread = std::thread::spawn(move || listener.accept().map(drop));
        let old = OldListeners { inodes: HashSet::from([inode]), duplicates };
        assert!(old.stop(Duration::from_secs(20)).await);
        assert_eq!(thread.join().unwrap().unwrap_err().raw_os_error(), Some(22), "EINVAL");
        TcpListener::bind(address).unwrap();
    }
}

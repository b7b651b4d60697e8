//! Stops the listeners of an old server. The kernel goes on listening after the descriptor is closed, while a thread is in accept(2) on it or
//! another process has it too.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kernel::sock_diag;
use crate::model::listener::Listener;
use crate::process::{self, Handle, run_blocking};
use crate::reload::timing::POLL_INTERVAL;
use crate::supervision::Supervisor;

/// The TCP listeners of a server that is to close them, and duplicates of them, as far as they could be had.
pub(in crate::reload) struct OldListeners {
    root: Handle,
    inodes: HashSet<u64>,
    duplicates: Vec<OwnedFd>,
}

/// The state of the old listeners after the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::reload) enum Closed {
    /// The kernel no longer lists them.
    Gone,
    /// A process of the server still waits for connections on one.
    Attended,
    /// No process of the server waits for connections, but the kernel still lists a listener.
    Listening,
}

impl OldListeners {
    /// Takes the listeners of the serving generation, while it has them. `None` for HAProxy: none of its threads waits in accept(2), so its
    /// listeners are gone with its descriptors.
    pub(in crate::reload) fn new(supervisor: &Supervisor, listeners: &[&Listener]) -> Option<OldListeners> {
        if supervisor.server().never_blocks_in_accept() {
            return None;
        }
        let root = supervisor.serving()?.process.clone();
        let custody = supervisor.custody();
        let tcp = || listeners.iter().filter(|listener| listener.endpoint.is_tcp_here());
        let duplicate = |listener: &&Listener| {
            let owner = custody.owner(listener.inode)?;
            Handle::duplicate(owner, listener.inode).inspect_err(|error| log::debug!("{error}")).ok()
        };
        let duplicates = tcp().filter_map(duplicate).collect();
        Some(OldListeners { root, inodes: tcp().map(|listener| listener.inode).collect(), duplicates })
    }

    /// Waits, for at most `timeout`, until no process of the server waits for connections on one of them. Then it stops what the kernel still
    /// listens on. To be called once the process that was seen with them has closed them.
    pub(in crate::reload) async fn stop(self, timeout: Duration) -> Closed {
        let deadline = Instant::now() + timeout;
        let OldListeners { root, inodes, duplicates } = self;
        let (root, inodes) = (root.pid(), Arc::new(inodes));
        while look_beside(&inodes, move |inodes| are_attended(root, inodes)).await {
            if Instant::now() >= deadline {
                return Closed::Attended;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        run_blocking(move || duplicates.iter().for_each(stop_listening)).await;
        while look_beside(&inodes, listen).await {
            if Instant::now() >= deadline {
                return Closed::Listening;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Closed::Gone
    }
}

async fn look_beside(inodes: &Arc<HashSet<u64>>, look: impl FnOnce(&HashSet<u64>) -> bool + Send + 'static) -> bool {
    let inodes = inodes.clone();
    run_blocking(move || look(&inodes)).await
}

/// A first process may close them before its workers do, and end before them. A child that only inherited them does not serve on them.
fn are_attended(root: u32, inodes: &HashSet<u64>) -> bool {
    let mut pids: Vec<u32> = process::session_members(root).into_iter().map(|(pid, _)| pid).collect();
    pids.extend(process::tree(root));
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().any(|pid| {
        let sockets = process::sockets_of(&[pid]);
        sockets.keys().filter(|inode| inodes.contains(inode)).any(|inode| process::waits_on(&[pid], *inode))
    })
}

/// Whether the kernel still lists one of the listeners. Where the kernel does not list any sockets, the start of the next server shows it.
fn listen(inodes: &HashSet<u64>) -> bool {
    sock_diag::tcp_listeners().is_ok_and(|all| all.iter().any(|found| inodes.contains(&found.inode)))
}

/// Ends the listener for all processes that have it, before this returns: shutdown(2) runs `inet_csk_listen_stop`, or waits for the task that
/// runs it. A queue that migrates does so now. Without this call it would migrate only when the process that closed the socket releases it. That
/// is long after its descriptor is gone from /proc. accept(2) returns with EINVAL.
pub(in crate::reload) fn stop_listening(socket: &OwnedFd) {
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
    async fn listener_with_a_thread_in_accept_is_stopped() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
        let duplicates = vec![listener.as_fd().try_clone_to_owned().unwrap()];
        let thread = std::thread::spawn(move || listener.accept().map(drop));
        let mut server = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let root = Handle::adopt(server.id(), process::start_time(server.id()).unwrap()).unwrap();
        let old = OldListeners { root, inodes: HashSet::from([inode]), duplicates };
        assert_eq!(old.stop(Duration::from_secs(20)).await, Closed::Gone);
        assert_eq!(thread.join().unwrap().unwrap_err().raw_os_error(), Some(22), "EINVAL");
        server.kill().unwrap();
        server.wait().unwrap();
        TcpListener::bind(address).unwrap();
    }

    #[tokio::test]
    async fn listener_that_another_process_of_the_server_serves_is_left_to_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
        let duplicate = listener.as_fd().try_clone_to_owned().unwrap();
        let waits = "import select, socket; select.select([socket.socket(fileno=0)], [], [])";
        let mut server =
            std::process::Command::new("python3").args(["-c", waits]).stdin(OwnedFd::from(listener)).spawn().unwrap();
        let inodes = HashSet::from([inode]);
        let begins = (0..4000).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            are_attended(server.id(), &inodes)
        });
        assert!(begins);
        let root = Handle::adopt(server.id(), process::start_time(server.id()).unwrap()).unwrap();
        let old = OldListeners { root, inodes: HashSet::from([inode]), duplicates: vec![duplicate] };
        assert_eq!(old.stop(Duration::from_millis(200)).await, Closed::Attended);
        assert!(listen(&HashSet::from([inode])));
        server.kill().unwrap();
        server.wait().unwrap();
    }
}

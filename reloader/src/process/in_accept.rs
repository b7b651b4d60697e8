//! Finds out whether threads of a server are blocked in accept(2) on a socket.

use super::procfs::threads_of;
use super::waiting::{Call, call_of};
use super::{SocketOwner, socket_at};

/// The threads of a server that may be blocked in accept(2) on a socket.
///
/// A thread leaves it when it is seen asleep in another system call. A thread that runs stays: the kernel wakes a thread in accept for a connection
/// that another thread takes first, and the thread then sleeps again in the same call (`inet_csk_wait_for_connect`).
pub struct AcceptWaiters {
    inode: u64,
    threads: Vec<(u32, u32)>,
}

/// What one look at the threads shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptState {
    /// A thread sleeps in accept(2).
    Blocked,
    /// No thread sleeps in accept(2), but one runs.
    Unknown,
    /// Each thread was seen outside accept(2).
    Free,
}

impl AcceptWaiters {
    /// All threads of the processes `pids`, for the socket with this inode.
    pub fn new(pids: &[u32], inode: u64) -> AcceptWaiters {
        let threads = pids.iter().flat_map(|pid| threads_of(*pid).into_iter().map(|thread| (*pid, thread))).collect();
        AcceptWaiters { inode, threads }
    }

    /// Looks at the threads that are left.
    pub fn look(&mut self) -> AcceptState {
        let inode = self.inode;
        let mut state = AcceptState::Free;
        self.threads.retain(|(pid, thread)| {
            let seen = match call_of(*pid, *thread) {
                None => AcceptState::Free,
                Some(None) => AcceptState::Unknown,
                Some(Some(call)) if is_accept_on(&call, (*pid, *thread), inode) => AcceptState::Blocked,
                Some(Some(_)) => AcceptState::Free,
            };
            if state != AcceptState::Blocked && seen != AcceptState::Free {
                state = seen;
            }
            seen != AcceptState::Free
        });
        state
    }
}

fn is_accept_on(call: &Call, (pid, thread): (u32, u32), inode: u64) -> bool {
    call.accepts_on().is_some_and(|fd| socket_at(SocketOwner { pid, thread, fd }) == Some(inode))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::thread;

    use super::*;

    fn inode_of(listener: &TcpListener) -> u64 {
        socket_at(SocketOwner::of_process(std::process::id(), listener.as_raw_fd() as u32)).unwrap()
    }

    #[test]
    fn thread_in_accept_is_found_until_a_client_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = inode_of(&listener);
        let address = listener.local_addr().unwrap();
        let own = std::process::id();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let acceptor = thread::spawn(move || listener.accept().map(|_| listener));
        let mut waiters = AcceptWaiters::new(&[own], inode);
        while waiters.look() != AcceptState::Blocked {
            thread::yield_now();
            waiters = AcceptWaiters::new(&[own], inode);
        }
        // A thread in accept on one socket does not wait on another.
        let elsewhere = inode_of(&other);
        assert_ne!(AcceptWaiters::new(&[own], elsewhere).look(), AcceptState::Blocked);
        let _client = TcpStream::connect(address).unwrap();
        acceptor.join().unwrap().unwrap();
        assert_ne!(waiters.look(), AcceptState::Blocked);
    }
}

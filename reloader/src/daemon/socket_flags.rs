//! Gives O_NONBLOCK back to the listeners of a server that is adopted. The flag belongs to the open file, so all processes share it. systemd
//! clears the flag on the sockets that it passes from a socket unit, even while a server listens on them (`flags_fds`). A server that relies on
//! the flag then hangs in accept(2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::kernel::sock_diag;
use crate::model::listener::Address;
use crate::process::{self, AcceptState, AcceptWaiters, Handle, run_blocking};
use crate::server::Server;
use crate::sockets::custody::make_nonblocking;
use crate::supervision::Generation;

/// Connections are made in bursts, so that threads that poll do not take them all, and so many times at most.
const BURST: usize = 8;
const MOST_BURSTS: usize = 100;

/// A thread that runs is looked at again after this time: the kernel does not say when a thread goes to sleep.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// Bounds the looks at a server whose threads hardly ever sleep. Such a thread does not hang.
const MOST_LOOKS: usize = 500;

/// How long a connection that wakes a thread may take.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Sets the flag again where it was cleared. HAProxy needs it on all of its listeners, because it waits on none in accept(2). Of another server,
/// `recorded` has the inodes of the listeners that had the flag. Returns a note for the receipt, or `None` where no flag was set.
pub(super) async fn give_back(server: &Server, generation: &Generation, recorded: Vec<u64>) -> Option<String> {
    let (all, processes) = (server.never_blocks_in_accept(), generation.processes());
    // `set_again` connects to a server that may hang.
    let changed = run_blocking(move || set_again(&processes, |inode| all || recorded.contains(&inode))).await;
    (!changed.is_empty())
        .then(|| format!("O_NONBLOCK was set again on {}: it had been cleared while no daemon ran", changed.join(", ")))
}

/// Sets the flag on the listeners for which `had_it` is true. Returns the addresses of those from which the flag was missing.
fn set_again(processes: &[u32], had_it: impl Fn(u64) -> bool) -> Vec<String> {
    let machine = sock_diag::listeners().unwrap_or_default();
    let sockets = process::sockets_of(processes);
    let mut changed = Vec::new();
    for found in machine.iter().filter(|found| had_it(found.inode)) {
        let Some(owner) = sockets.get(&found.inode) else { continue };
        // A listener that cannot be duplicated cannot be in custody either, and custody reports that.
        if Handle::duplicate(*owner, found.inode).is_ok_and(|socket| make_nonblocking(&socket)) {
            changed.push(found);
        }
    }
    changed.iter().for_each(|found| wake(&found.address, AcceptWaiters::new(processes, found.inode)));
    changed.iter().map(|found| found.address.to_string()).collect()
}

/// A thread that is in accept(2) already stays there until a client comes.
#[expect(clippy::disallowed_methods, reason = "it runs on a blocking thread")]
fn wake(address: &Address, mut waiters: AcceptWaiters) {
    let Address::Inet(address) = address else { return };
    let address = reachable(*address);
    let mut bursts = 0;
    for _ in 0..MOST_LOOKS {
        match waiters.look() {
            AcceptState::Free => return,
            AcceptState::Unknown => thread::sleep(BETWEEN_LOOKS),
            AcceptState::Blocked if bursts == MOST_BURSTS => return,
            AcceptState::Blocked => {
                bursts += 1;
                let clients: Vec<_> = (0..BURST).map(|_| TcpStream::connect_timeout(&address, SETTLE_TIME)).collect();
                if clients.iter().any(Result::is_err) {
                    return;
                }
            }
        }
    }
}

/// An address of this machine that reaches a listener on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

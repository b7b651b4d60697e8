//! Gives O_NONBLOCK back to the listeners of a server that is adopted. The flag belongs to the open file, and systemd clears it of the sockets
//! that it passes from a socket unit, although a server listens on them (`flags_fds`): a server that relies on it hangs in accept(2).

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::listener::Address;
use crate::process::{self, Handle};
use crate::receipt::Recorder;
use crate::server::Server;
use crate::sockets::custody::make_nonblocking;
use crate::supervision::Generation;

/// Connections are made in bursts, so that threads that poll do not take them all, and so many times at most.
const BURST: usize = 8;
const MOST_BURSTS: usize = 100;

/// How long a connection that wakes a thread may take.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// HAProxy waits on none of its listeners in accept(2); of other servers' those are `recorded` that do not.
pub(super) fn give_back(server: &Server, generation: &Generation, recorded: &[u64], recorder: &mut Recorder) {
    let Ok(machine) = sock_diag::listeners() else { return };
    let processes = generation.processes();
    let sockets = process::sockets_of(&processes);
    let had_it = |found: &&ListenSocket| server.haproxy().is_some() || recorded.contains(&found.inode);
    let mut changed = Vec::new();
    for found in machine.iter().filter(had_it) {
        let Some(owner) = sockets.get(&found.inode) else { continue };
        // Where it cannot be had, neither can custody, which says so.
        if Handle::duplicate(*owner, found.inode).is_ok_and(|socket| make_nonblocking(&socket)) {
            changed.push((found.inode, found.address.clone()));
        }
    }
    if changed.is_empty() {
        return;
    }
    changed.iter().for_each(|(inode, address)| wake(address, || process::is_in_accept(&processes, *inode)));
    let listeners: Vec<String> = changed.iter().map(|(_, address)| address.to_string()).collect();
    recorder
        .note(format!("O_NONBLOCK was set again on {}: it had been cleared while no daemon ran", listeners.join(", ")));
}

/// A thread that is in accept(2) already stays there until a client comes.
fn wake(address: &Address, is_stuck: impl Fn() -> bool) {
    let Address::Inet(address) = address else { return };
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    let address = SocketAddr::new(ip, address.port());
    for _ in 0..MOST_BURSTS {
        if !is_stuck() {
            return;
        }
        let clients: Vec<_> = (0..BURST).map(|_| TcpStream::connect_timeout(&address, SETTLE_TIME)).collect();
        if clients.iter().any(Result::is_err) {
            return;
        }
    }
}

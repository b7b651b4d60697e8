//! Whether the ports of a hold have a listener that stays: until then a guard without a holder holds on, or clients would be refused.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

use super::super::Target;
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::listener::Address;
use crate::process;

/// What is held, and what listened there before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in super::super) struct Ports {
    pub(in super::super) targets: Vec<Target>,
    /// The inodes of the old server's listeners, and of other servers'.
    pub(in super::super) before: HashSet<u64>,
}

/// The same, for a guard.
pub(super) struct Succession {
    ports: Ports,
    /// An eventfd, which is readable from the moment when the old server is about to be told to close its listeners.
    leaving: OwnedFd,
}

impl Succession {
    pub(super) fn new(ports: Ports, leaving: OwnedFd) -> Succession {
        Succession { ports, leaving }
    }

    /// Whether something listens that is not on its way out. Where the kernel does not say, too: nobody is held for that.
    pub(super) fn is_complete(&self) -> bool {
        let Ok(mut machine) = sock_diag::tcp_listeners() else { return true };
        if self.old_leaves() {
            machine.retain(|found| !self.ports.before.contains(&found.inode));
        }
        is_complete(&self.ports.targets, &machine, is_attended)
    }

    fn old_leaves(&self) -> bool {
        let mut ready = [PollFd::new(&self.leaving, PollFlags::IN)];
        poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }
}

/// A server that waits for connections is done with its start: a port that it does not listen on has no listener any more. Pure.
fn is_complete(targets: &[Target], machine: &[ListenSocket], is_attended: impl Fn(u64) -> bool) -> bool {
    let at = |target: &Target| machine.iter().filter(|found| listens_at(found, target)).collect::<Vec<_>>();
    let all: Vec<_> = targets.iter().map(at).collect();
    all.iter().all(|found| !found.is_empty()) || all.iter().flatten().any(|found| is_attended(found.inode))
}

fn listens_at(found: &ListenSocket, target: &Target) -> bool {
    let Address::Inet(address) = found.address else { return false };
    let ips = [address.ip(), target.address.ip()];
    address.port() == target.address.port() && (ips[0] == ips[1] || ips.iter().any(|ip| ip.is_unspecified()))
}

fn is_attended(inode: u64) -> bool {
    let holders = process::holders_of(&HashSet::from([inode])).remove(&inode).unwrap_or_default();
    process::waits_on(&Vec::from_iter(holders), inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(address: &str) -> Target {
        Target { address: address.parse().unwrap(), v6only: false, interface: 0 }
    }

    fn listener(inode: u64, address: &str) -> ListenSocket {
        let address = Address::Inet(address.parse().unwrap());
        ListenSocket { inode, address, interface: 0, v6only: false, queued: 0, backlog: 0 }
    }

    #[test]
    fn each_port_needs_a_listener_until_its_server_waits() {
        let targets = [target("127.0.0.1:80"), target("0.0.0.0:81")];
        let complete = |machine: &[ListenSocket]| is_complete(&targets, machine, |inode| inode == 9);
        assert!(!complete(&[]));
        assert!(!complete(&[listener(1, "127.0.0.1:80"), listener(2, "127.0.0.1:82")]));
        assert!(complete(&[listener(1, "127.0.0.1:80"), listener(2, "127.0.0.1:81")]));
        assert!(complete(&[listener(9, "[::]:80")]));
        assert!(!complete(&[listener(9, "127.0.0.2:80")]));
    }

    #[test]
    fn what_listened_before_counts_until_it_leaves() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&socket).unwrap().st_ino;
        let leaving = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let targets = vec![Target { address: socket.local_addr().unwrap(), v6only: false, interface: 0 }];
        let ports = Ports { targets, before: HashSet::from([inode]) };
        let succession = Succession::new(ports, leaving.try_clone().unwrap());
        assert!(succession.is_complete());
        rustix::io::write(&leaving, &1_u64.to_ne_bytes()).unwrap();
        assert!(!succession.is_complete());
    }
}

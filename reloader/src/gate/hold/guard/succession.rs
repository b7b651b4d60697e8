//! Tells whether the ports of a hold have listeners that stay. Until then a guard without a holder holds on, because a release would
//! mean refused connections.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::ports::Ports;
use crate::gate::contract::{Exception, Target};
use crate::gate::hold::timing::{LISTENERS_SETTLED_AFTER, LISTING_TIMEOUT};
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::listener::{Address, Endpoint};

/// The listeners that a guard without a holder waits for.
pub(super) struct Succession {
    ports: Ports,
    /// An eventfd: readable while the old server closes its listeners.
    old_leaving: OwnedFd,
    /// The inodes of the listeners at the last look.
    seen: HashSet<u64>,
    /// Since when these inodes have not changed.
    seen_since: Instant,
    /// Since when the kernel has not listed the listeners of this machine.
    blind_since: Option<Instant>,
}

impl Succession {
    pub(super) fn new(ports: Ports, old_leaving: OwnedFd) -> Succession {
        Succession { ports, old_leaving, seen: HashSet::new(), seen_since: Instant::now(), blind_since: None }
    }

    /// Whether the ports have all listeners that are to be expected.
    pub(super) fn is_complete(&mut self) -> bool {
        let Ok(listening) = sock_diag::tcp_listeners() else {
            return self.blind_since.get_or_insert_with(Instant::now).elapsed() >= LISTING_TIMEOUT;
        };
        self.blind_since = None;
        let Successors { inodes, all_served } = successors(&self.ports, &listening, self.old_leaves());
        if inodes != self.seen {
            (self.seen, self.seen_since) = (inodes, Instant::now());
        }
        all_served || (!self.seen.is_empty() && self.seen_since.elapsed() >= LISTENERS_SETTLED_AFTER)
    }

    fn old_leaves(&self) -> bool {
        let mut ready = [PollFd::new(&self.old_leaving, PollFlags::IN)];
        poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }
}

/// The listeners that serve the ports of a hold.
#[derive(Debug, PartialEq, Eq)]
struct Successors {
    inodes: HashSet<u64>,
    /// Whether each target has one.
    all_served: bool,
}

/// Finds the listeners that count among all that listen on this machine. Pure.
fn successors(ports: &Ports, listening: &[ListenSocket], old_leaves: bool) -> Successors {
    let mut by_port: HashMap<u16, Vec<&ListenSocket>> = HashMap::new();
    for listener in listening.iter().filter(|listener| counts(ports, listener, old_leaves)) {
        if let Address::Inet(address) = listener.address {
            by_port.entry(address.port()).or_default().push(listener);
        }
    }
    let mut inodes = HashSet::new();
    let mut all_served = true;
    for target in &ports.targets {
        let on_port = by_port.get(&target.address.port()).into_iter().flatten();
        let mut serving = on_port.filter(|listener| listens_at(listener, target)).peekable();
        all_served &= serving.peek().is_some();
        inodes.extend(serving.map(|listener| listener.inode));
    }
    Successors { inodes, all_served }
}

fn counts(ports: &Ports, listener: &ListenSocket, old_leaves: bool) -> bool {
    let is_exception = Exception::from_listener(listener).is_some_and(|one| ports.exceptions.contains(&one));
    let leaves = old_leaves && ports.old.contains(&listener.inode);
    !(is_exception || leaves)
}

fn listens_at(listener: &ListenSocket, target: &Target) -> bool {
    let endpoint = |address, v6only| Endpoint { v6only, ..Endpoint::stream(address) };
    endpoint(listener.address.clone(), listener.v6only)
        .overlaps(&endpoint(Address::Inet(target.address), target.v6only))
        && (listener.interface == target.interface || listener.interface == 0 || target.interface == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(address: &str) -> Target {
        Target { address: address.parse().unwrap(), v6only: false, interface: 0 }
    }

    fn listener(inode: u64, address: &str) -> ListenSocket {
        let address = Address::Inet(address.parse().unwrap());
        ListenSocket { inode, address, interface: 0, v6only: false, file: None, queued: 0, backlog: 0 }
    }

    fn ports(targets: &[&str]) -> Ports {
        let targets = targets.iter().map(|address| target(address)).collect();
        Ports { targets, exceptions: Vec::new(), old: HashSet::from([7]) }
    }

    #[test]
    fn each_port_needs_a_listener() {
        let ports = ports(&["127.0.0.1:80", "0.0.0.0:81"]);
        let found = |listening: &[ListenSocket]| {
            let Successors { inodes, all_served } = successors(&ports, listening, false);
            (inodes, all_served)
        };
        let (one, other) = (listener(1, "127.0.0.1:80"), listener(2, "127.0.0.1:81"));
        assert_eq!(found(&[]), (HashSet::new(), false));
        assert_eq!(found(&[one.clone(), listener(3, "127.0.0.1:82")]), (HashSet::from([1]), false));
        assert_eq!(found(&[one, other]), (HashSet::from([1, 2]), true));
    }

    #[test]
    fn a_listener_of_another_family_or_device_does_not_serve_the_port() {
        let serves = |ports: &Ports, listener: ListenSocket| successors(ports, &[listener], false).all_served;
        assert!(!serves(&ports(&["[::1]:80"]), listener(1, "0.0.0.0:80")));
        assert!(serves(&ports(&["10.0.0.1:80"]), listener(1, "[::]:80")));
        let v6only = ListenSocket { v6only: true, ..listener(1, "[::]:80") };
        assert!(!serves(&ports(&["10.0.0.1:80"]), v6only));
        assert!(serves(&ports(&["[::ffff:10.0.0.1]:80"]), listener(1, "10.0.0.1:80")));
        let on = |interface| {
            let mut ports = ports(&["10.0.0.1:80"]);
            ports.targets[0].interface = 2;
            serves(&ports, ListenSocket { interface, ..listener(1, "10.0.0.1:80") })
        };
        assert_eq!([on(0), on(2), on(3)], [true, true, false]);
    }

    #[test]
    fn old_listeners_do_not_count_once_the_server_leaves_and_exceptions_never_count() {
        let mut ports = ports(&["0.0.0.0:80"]);
        assert!(successors(&ports, &[listener(7, "0.0.0.0:80")], false).all_served);
        assert!(!successors(&ports, &[listener(7, "0.0.0.0:80")], true).all_served);
        let foreign = listener(8, "127.0.0.53:80");
        assert!(successors(&ports, std::slice::from_ref(&foreign), true).all_served);
        ports.exceptions.extend(Exception::from_listener(&foreign));
        assert!(!successors(&ports, &[foreign], true).all_served);
    }

    #[test]
    fn an_eventfd_tells_that_the_old_server_leaves() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&socket).unwrap().st_ino;
        let old_leaving = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let targets = vec![Target { address: socket.local_addr().unwrap(), v6only: false, interface: 0 }];
        let ports = Ports { targets, exceptions: Vec::new(), old: HashSet::from([inode]) };
        let mut succession = Succession::new(ports, old_leaving.try_clone().unwrap());
        assert!(succession.is_complete());
        rustix::io::write(&old_leaving, &1_u64.to_ne_bytes()).unwrap();
        assert!(!succession.is_complete());
    }
}

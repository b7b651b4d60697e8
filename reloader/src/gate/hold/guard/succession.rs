//! Whether the ports of a hold have listeners that stay: until then a guard without a holder holds on, or clients would be refused.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

use super::super::{Exception, Target};
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::listener::{Address, Endpoint};

/// A server binds its ports one after the other. One that has bound some of them and no other for so long has done so on purpose: the
/// rest have no listener any more.
const SETTLED: Duration = Duration::from_secs(1);

/// For so long a kernel that does not list its listeners is asked again, and no SYN is released meanwhile.
const BLIND: Duration = Duration::from_secs(1);

/// The longest text of [`Ports`], in bytes: the maps of a gate have room for fewer ports.
const LONGEST: u64 = 16 << 20;

/// What is held, and what listened there before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in super::super) struct Ports {
    pub(in super::super) targets: Vec<Target>,
    /// Listeners of other servers, which never count.
    pub(in super::super) exceptions: Vec<Exception>,
    /// The old server's listeners by inode, which count until it leaves.
    pub(in super::super) old: HashSet<u64>,
}

impl Ports {
    /// In a file in memory: they are too many for one message.
    pub(in super::super) fn to_file(&self) -> io::Result<File> {
        let mut file: File = memfd_create("reloader-ports", MemfdFlags::CLOEXEC)?.into();
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file)
    }

    pub(super) fn from_file(mut file: File) -> io::Result<Ports> {
        // The holder, and a guard before this one, share its position.
        file.rewind()?;
        let mut text = Vec::new();
        file.take(LONGEST).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Of these listeners those that count, and whether each port has one. Pure.
    fn succession(&self, machine: &[ListenSocket], old_leaves: bool) -> (HashSet<u64>, bool) {
        let mut by_port: HashMap<u16, Vec<&ListenSocket>> = HashMap::new();
        for found in machine.iter().filter(|found| self.counts(found, old_leaves)) {
            if let Address::Inet(address) = found.address {
                by_port.entry(address.port()).or_default().push(found);
            }
        }
        let mut succession = HashSet::new();
        let mut is_complete = true;
        for target in &self.targets {
            let there = by_port.get(&target.address.port()).into_iter().flatten();
            let mut there = there.filter(|found| listens_at(found, target)).peekable();
            is_complete &= there.peek().is_some();
            succession.extend(there.map(|found| found.inode));
        }
        (succession, is_complete)
    }

    fn counts(&self, found: &ListenSocket, old_leaves: bool) -> bool {
        let is_foreign = Exception::from_listener(found).is_some_and(|one| self.exceptions.contains(&one));
        let leaves = old_leaves && self.old.contains(&found.inode);
        !(is_foreign || leaves)
    }
}

/// What a guard without a holder waits for.
pub(super) struct Succession {
    ports: Ports,
    /// An eventfd, which is readable from when the old server is about to be told to close its listeners.
    leaving: OwnedFd,
    /// The listeners of the last look, and since when they are the same.
    seen: HashSet<u64>,
    since: Instant,
    /// Since when the kernel does not list any.
    blind: Option<Instant>,
}

impl Succession {
    pub(super) fn new(ports: Ports, leaving: OwnedFd) -> Succession {
        Succession { ports, leaving, seen: HashSet::new(), since: Instant::now(), blind: None }
    }

    /// Whether the ports have the listeners that they will have.
    pub(super) fn is_complete(&mut self) -> bool {
        let Ok(machine) = sock_diag::tcp_listeners() else {
            return self.blind.get_or_insert_with(Instant::now).elapsed() >= BLIND;
        };
        self.blind = None;
        let (found, all_served) = self.ports.succession(&machine, self.old_leaves());
        if found != self.seen {
            (self.seen, self.since) = (found, Instant::now());
        }
        all_served || (!self.seen.is_empty() && self.since.elapsed() >= SETTLED)
    }

    fn old_leaves(&self) -> bool {
        let mut ready = [PollFd::new(&self.leaving, PollFlags::IN)];
        poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }
}

fn listens_at(found: &ListenSocket, target: &Target) -> bool {
    let endpoint = |address, v6only| Endpoint { v6only, ..Endpoint::stream(address) };
    let theirs = endpoint(found.address.clone(), found.v6only);
    theirs.overlaps(&endpoint(Address::Inet(target.address), target.v6only))
        && (found.interface == target.interface || found.interface == 0 || target.interface == 0)
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

    fn ports(targets: &[&str]) -> Ports {
        let targets = targets.iter().map(|address| target(address)).collect();
        Ports { targets, exceptions: Vec::new(), old: HashSet::from([7]) }
    }

    #[test]
    fn each_port_needs_a_listener() {
        let ports = ports(&["127.0.0.1:80", "0.0.0.0:81"]);
        let found = |machine: &[ListenSocket]| ports.succession(machine, false);
        let (one, other) = (listener(1, "127.0.0.1:80"), listener(2, "127.0.0.1:81"));
        assert_eq!(found(&[]), (HashSet::new(), false));
        assert_eq!(found(&[one.clone(), listener(3, "127.0.0.1:82")]), (HashSet::from([1]), false));
        assert_eq!(found(&[one, other]), (HashSet::from([1, 2]), true));
    }

    #[test]
    fn families_and_devices_are_told_apart() {
        let serves = |ports: &Ports, found: ListenSocket| ports.succession(&[found], false).1;
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
    fn what_listened_before_does_not_count_from_when_it_leaves_and_others_never() {
        let mut ports = ports(&["0.0.0.0:80"]);
        assert!(ports.succession(&[listener(7, "0.0.0.0:80")], false).1);
        assert!(!ports.succession(&[listener(7, "0.0.0.0:80")], true).1);
        let foreign = listener(8, "127.0.0.53:80");
        assert!(ports.succession(std::slice::from_ref(&foreign), true).1);
        ports.exceptions.extend(Exception::from_listener(&foreign));
        assert!(!ports.succession(&[foreign], true).1);
    }

    #[test]
    fn an_eventfd_says_that_the_old_server_leaves() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&socket).unwrap().st_ino;
        let leaving = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let targets = vec![Target { address: socket.local_addr().unwrap(), v6only: false, interface: 0 }];
        let ports = Ports { targets, exceptions: Vec::new(), old: HashSet::from([inode]) };
        let mut succession = Succession::new(ports, leaving.try_clone().unwrap());
        assert!(succession.is_complete());
        rustix::io::write(&leaving, &1_u64.to_ne_bytes()).unwrap();
        assert!(!succession.is_complete());
    }

    #[test]
    fn many_ports_go_through_a_file() {
        let all: Vec<String> =
            (1..=60_000).map(|port| format!("[2001:db8:1111:2222:3333:4444:5555:6666]:{port}")).collect();
        let many = ports(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let file = many.to_file().unwrap();
        for _ in 0..2 {
            let read = Ports::from_file(file.try_clone().unwrap()).unwrap();
            assert_eq!((read.targets.len(), read.old), (60_000, many.old.clone()));
        }
    }
}

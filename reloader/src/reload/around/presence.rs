//! Who listens on the held ports, before the command and after: from plain data to a decision. Pure.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use crate::gate::hold::{Exception, Target};
use crate::kernel::sock_diag::ListenSocket;
use crate::listener::{Address, Endpoint, Listener, SocketType};

/// The listeners of the held ports at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Presence {
    targets: Vec<SocketAddr>,
    /// One list for each target, in their order.
    pub(super) of: Vec<Vec<Listener>>,
}

/// What stands on the held ports, compared with what stood there before the command. The worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stand {
    /// A port has no listener.
    Missing,
    /// Each port has a new listener, but not on every address that was listened on before.
    Partly,
    /// A port has only the listener that was there before.
    Before,
    /// Each port has a new listener, but the one before has not closed on some of them.
    Both,
    /// Each port has its new listener, or the same one in new hands.
    New,
}

impl Presence {
    /// From all TCP listeners of the machine.
    pub(super) fn new(targets: &[SocketAddr], sockets: &[ListenSocket]) -> Presence {
        let all: Vec<Listener> = sockets.iter().filter_map(listener).collect();
        let of = targets
            .iter()
            .map(|target| all.iter().filter(|listener| serves(&listener.endpoint, *target)).cloned().collect());
        Presence { targets: targets.to_vec(), of: of.collect() }
    }

    /// Each listener once.
    pub(super) fn listeners(&self) -> Vec<Listener> {
        let mut listed = HashSet::new();
        self.of.iter().flatten().filter(|listener| listed.insert(listener.inode)).cloned().collect()
    }

    fn inodes(&self) -> HashSet<u64> {
        self.of.iter().flatten().map(|listener| listener.inode).collect()
    }
}

/// The decision. `owners` are the processes that hold a socket now, `owners_before` those that did before the command: a
/// socket that a process has which had it not is in new hands (socket activation), and as good as a new one.
pub(super) fn stand(
    before: &Presence,
    now: &Presence,
    owners_before: &HashMap<u64, HashSet<u32>>,
    owners: &HashMap<u64, HashSet<u32>>,
) -> Stand {
    let old = before.inodes();
    let in_new_hands = |inode: u64| match (owners_before.get(&inode), owners.get(&inode)) {
        (Some(before), Some(now)) => !now.is_subset(before),
        _ => false,
    };
    let mut stand = Stand::New;
    for ((target, earlier), listeners) in before.targets.iter().zip(&before.of).zip(&now.of) {
        // Of one address all clients find whichever of these there is.
        let is_served = |old: &Listener| !target.ip().is_unspecified() || is_served_by(old, listeners);
        let fresh = listeners.iter().any(|listener| !old.contains(&listener.inode) || in_new_hands(listener.inode));
        let stale = listeners.iter().any(|listener| old.contains(&listener.inode) && !in_new_hands(listener.inode));
        stand = match (fresh, stale) {
            (false, false) => return Stand::Missing,
            (false, true) => Stand::Before,
            (true, _) if !earlier.iter().all(is_served) => Stand::Partly.min(stand),
            (true, true) => Stand::Both.min(stand),
            _ => stand,
        };
    }
    stand
}

/// Whether clients of an earlier listener find one of these, be it the same one.
fn is_served_by(old: &Listener, listeners: &[Listener]) -> bool {
    let Address::Inet(address) = old.endpoint.address else { return true };
    listeners.iter().any(|now| {
        now.endpoint.address == old.endpoint.address
            || (now.endpoint.covers(address)
                && (!address.ip().is_unspecified() || now.endpoint.address.family() != old.endpoint.address.family()))
    })
}

/// The addresses to hold. Of a name that stands for several (`localhost`), those on which somebody listens: a server of one
/// family is not waited for on the other. All of them where nobody does.
pub(super) fn meant(listen: &[Vec<SocketAddr>], sockets: &[ListenSocket]) -> Vec<SocketAddr> {
    let mut meant = Vec::new();
    for addresses in listen {
        let presence = Presence::new(addresses, sockets);
        let is_served = addresses.iter().zip(&presence.of).filter(|(_, listeners)| !listeners.is_empty());
        let served: Vec<SocketAddr> = is_served.map(|(address, _)| *address).collect();
        meant.extend(if served.is_empty() { addresses } else { &served });
    }
    meant.sort();
    meant.dedup();
    meant
}

/// What a gate is to hold for the targets, as their listeners are bound.
pub(super) fn held(targets: &[SocketAddr], sockets: &[ListenSocket]) -> Vec<Target> {
    let mut held: Vec<Target> = targets.iter().map(|address| one_held(*address, targets, sockets)).collect();
    held.dedup();
    held
}

fn one_held(address: SocketAddr, targets: &[SocketAddr], sockets: &[ListenSocket]) -> Target {
    let found = sockets.iter().find(|found| found.address == Address::Inet(address));
    // `[::]` and `0.0.0.0` beside each other: each has its own family.
    let v4 = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), address.port());
    let both = address.is_ipv6()
        && !targets.contains(&v4)
        && found.is_some()
        && sockets.iter().any(|found| found.address == Address::Inet(v4));
    let v6only = address.is_ipv6() && (both || found.is_some_and(|found| found.v6only));
    Target { address, v6only, interface: found.map_or(0, |found| found.interface) }
}

/// Listeners on single addresses of a port that is held as a whole, of processes that own none of the held ones: theirs are
/// not ours to hold up.
pub(super) fn exceptions(
    before: &Presence,
    sockets: &[ListenSocket],
    owners: &HashMap<u64, HashSet<u32>>,
    targets: &[SocketAddr],
) -> Vec<Exception> {
    let exact: HashSet<u64> = before
        .of
        .iter()
        .flatten()
        .filter(|listener| matches!(listener.endpoint.address, Address::Inet(a) if targets.contains(&a)))
        .map(|listener| listener.inode)
        .collect();
    let ours: HashSet<u32> = exact.iter().filter_map(|inode| owners.get(inode)).flatten().copied().collect();
    let somebody_elses = |found: &&ListenSocket| {
        let theirs = owners.get(&found.inode);
        !exact.contains(&found.inode) && theirs.is_some_and(|theirs| theirs.is_disjoint(&ours))
    };
    let on_held_port = |Exception { address, .. }: &Exception| {
        let wildcard = |target: &SocketAddr| target.ip().is_unspecified() && target.port() == address.port();
        !targets.contains(address) && targets.iter().any(wildcard)
    };
    sockets.iter().filter(somebody_elses).filter_map(Exception::of).filter(on_held_port).collect()
}

fn listener(found: &ListenSocket) -> Option<Listener> {
    matches!(found.address, Address::Inet(_)).then(|| {
        let endpoint = Endpoint {
            address: found.address.clone(),
            socket_type: SocketType::Stream,
            v6only: found.v6only,
            interface: None,
            netns: None,
        };
        Listener { endpoint, inode: found.inode }
    })
}

/// Whether a listener serves some of what is held for a target.
fn serves(endpoint: &Endpoint, target: SocketAddr) -> bool {
    let Address::Inet(own) = endpoint.address else { return false };
    endpoint.covers(target) || own == target || (target.ip().is_unspecified() && part_of_any(own, target))
}

fn part_of_any(own: SocketAddr, target: SocketAddr) -> bool {
    own.port() == target.port() && (target.is_ipv6() || own.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(address: &str, inode: u64) -> ListenSocket {
        let address = Address::Inet(address.parse().unwrap());
        ListenSocket { inode, address, interface: 0, v6only: false, queued: 0, backlog: 9 }
    }

    fn targets(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn presence(addresses: &[&str], sockets: &[ListenSocket]) -> Presence {
        Presence::new(&targets(addresses), sockets)
    }

    fn owners(of: &[(u64, &[u32])]) -> HashMap<u64, HashSet<u32>> {
        of.iter().map(|(inode, pids)| (*inode, pids.iter().copied().collect())).collect()
    }

    #[test]
    fn a_new_inode_on_every_port_is_what_is_waited_for() {
        let ports = ["127.0.0.1:80", "127.0.0.1:81"];
        let before = presence(&ports, &[socket("0.0.0.0:80", 1), socket("127.0.0.1:81", 2)]);
        let none = HashMap::new();
        let stand = |sockets: &[ListenSocket]| stand(&before, &presence(&ports, sockets), &none, &none);
        assert_eq!(stand(&[socket("0.0.0.0:80", 1), socket("127.0.0.1:81", 2)]), Stand::Before);
        assert_eq!(stand(&[socket("0.0.0.0:80", 3)]), Stand::Missing);
        assert_eq!(stand(&[socket("0.0.0.0:80", 3), socket("127.0.0.1:81", 2)]), Stand::Before);
        assert_eq!(stand(&[socket("0.0.0.0:80", 3), socket("0.0.0.0:80", 1), socket("127.0.0.1:81", 4)]), Stand::Both);
        assert_eq!(stand(&[socket("[::]:80", 3), socket("127.0.0.1:81", 4)]), Stand::New);
        assert_eq!(stand(&[socket("127.0.0.1:80", 3), socket("127.0.0.1:81", 4)]), Stand::New);
        assert_eq!(stand(&[socket("127.0.0.2:80", 3), socket("127.0.0.1:81", 4)]), Stand::Missing);
    }

    #[test]
    fn of_a_name_only_those_addresses_are_meant_that_are_listened_on() {
        let name = [targets(&["[::1]:80", "127.0.0.1:80"])];
        assert_eq!(meant(&name, &[socket("127.0.0.1:80", 1)]), targets(&["127.0.0.1:80"]));
        assert_eq!(meant(&name, &[socket("[::]:80", 1)]), targets(&["127.0.0.1:80", "[::1]:80"]));
        assert_eq!(meant(&name, &[]).len(), 2);
    }

    #[test]
    fn every_address_that_was_listened_on_is_waited_for() {
        let ports = ["[::]:80"];
        let v6 = |inode| ListenSocket { v6only: true, ..socket("[::]:80", inode) };
        let before = presence(&ports, &[socket("0.0.0.0:80", 1), v6(2)]);
        let none = HashMap::new();
        let stand = |sockets: &[ListenSocket]| stand(&before, &presence(&ports, sockets), &none, &none);
        assert_eq!(stand(&[socket("0.0.0.0:80", 3)]), Stand::Partly);
        assert_eq!(stand(&[socket("0.0.0.0:80", 3), v6(4)]), Stand::New);
        assert_eq!(stand(&[socket("[::]:80", 3)]), Stand::New, "one of both families takes the place of two");
        let single = presence(&ports, &[socket("10.0.0.1:80", 1), socket("10.0.0.2:80", 2)]);
        let now = presence(&ports, &[socket("0.0.0.0:80", 5)]);
        assert_eq!(super::stand(&single, &now, &none, &none), Stand::New);
    }

    #[test]
    fn a_socket_in_new_hands_is_as_good_as_a_new_one() {
        let before = presence(&["127.0.0.1:80"], &[socket("127.0.0.1:80", 1)]);
        let stand = |now: &[(u64, &[u32])]| stand(&before, &before.clone(), &owners(&[(1, &[1, 50])]), &owners(now));
        assert_eq!(stand(&[(1, &[1, 50])]), Stand::Before);
        assert_eq!(stand(&[(1, &[1])]), Stand::Before);
        assert_eq!(stand(&[(1, &[1, 77])]), Stand::New);
    }

    #[test]
    fn a_wildcard_leaves_other_peoples_listeners_alone_and_takes_its_own_servers_along() {
        let sockets =
            [socket("0.0.0.0:80", 1), socket("10.0.0.1:80", 2), socket("10.0.0.2:80", 3), socket("10.0.0.2:81", 4)];
        let owners = owners(&[(1, &[50]), (2, &[60]), (3, &[50]), (4, &[60])]);
        let wanted = targets(&["0.0.0.0:80"]);
        let before = Presence::new(&wanted, &sockets);
        let excepted = Exception { address: "10.0.0.1:80".parse().unwrap(), interface: 0 };
        assert_eq!(exceptions(&before, &sockets, &owners, &wanted), [excepted]);
    }

    #[test]
    fn a_wildcard_of_both_families_is_held_as_it_is_bound() {
        let any = targets(&["[::]:80"]);
        assert!(!held(&any, &[])[0].v6only);
        assert!(!held(&any, &[socket("[::]:80", 1)])[0].v6only);
        assert!(held(&any, &[ListenSocket { v6only: true, ..socket("[::]:80", 1) }])[0].v6only);
        assert!(held(&any, &[socket("[::]:80", 1), socket("0.0.0.0:80", 2)])[0].v6only);
        // Asked for as `:80`, with an IPv4 listener only.
        assert!(!held(&any, &[socket("0.0.0.0:80", 2)])[0].v6only);
    }
}

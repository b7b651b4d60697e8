//! Decides what a gate holds for each `--listen`, by the listeners of this machine. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{Ipv6Addr, SocketAddr};

use super::listen::Listen;
use crate::gate::hold::{Exception, Target};
use crate::kernel::sock_diag::ListenSocket;
use crate::model::listener::{Address, Endpoint, Listener};

/// What one `--listen` stands for. A listener on one of these endpoints serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestedListener {
    pub(super) endpoints: Vec<Endpoint>,
}

impl RequestedListener {
    /// Whether a listener overlaps one of these endpoints. Then the same endpoints are held for it.
    pub(super) fn has(&self, listener: &Endpoint) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.overlaps(listener))
    }
}

pub(super) fn is_wildcard(endpoint: &Endpoint) -> bool {
    endpoint.inet().is_some_and(|address| address.ip().is_unspecified())
}

pub(super) fn listener(found: &ListenSocket) -> Option<Listener> {
    matches!(found.address, Address::Inet(_)).then(|| {
        let endpoint = Endpoint { v6only: found.v6only, ..Endpoint::stream(found.address.clone()) };
        Listener { endpoint, inode: found.inode }
    })
}

/// What the `--listen` arguments stand for. A name may have several addresses (`localhost`). Then only the addresses that have a listener count,
/// so that a server of one family is not waited for on the other. Where no address has a listener, all of them count.
pub(super) fn places(listen: &[Listen], sockets: &[ListenSocket]) -> Vec<RequestedListener> {
    let listeners: Vec<Listener> = sockets.iter().filter_map(listener).collect();
    let mut places = Vec::new();
    for listen in listen {
        let all: Vec<Endpoint> = match listen {
            Listen::EveryAddress(port) => vec![Endpoint::stream(Address::Inet((Ipv6Addr::UNSPECIFIED, *port).into()))],
            Listen::OneOf(addresses) => addresses.iter().map(|address| as_it_is_bound(*address, sockets)).collect(),
        };
        let is_served = |endpoint: &&Endpoint| listeners.iter().any(|found| endpoint.overlaps(&found.endpoint));
        let served: Vec<Endpoint> = all.iter().filter(is_served).cloned().collect();
        let place = RequestedListener { endpoints: if served.is_empty() { all } else { served } };
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// The endpoint for an address. `[::]` stands for both families, unless the listener there refuses IPv4.
fn as_it_is_bound(address: SocketAddr, sockets: &[ListenSocket]) -> Endpoint {
    let is_here = |found: &&ListenSocket| match found.address {
        Address::Inet(bound) => (bound.ip(), bound.port()) == (address.ip(), address.port()),
        _ => false,
    };
    let mut here = sockets.iter().filter(is_here).peekable();
    let v6only = address.is_ipv6() && here.peek().is_some() && here.all(|found| found.v6only);
    Endpoint { v6only, ..Endpoint::stream(Address::Inet(address)) }
}

/// The targets of a gate: they cover every listener that the `--listen` arguments stand for. `sockets` has no foreign listeners.
pub(super) fn targets(places: &[RequestedListener], sockets: &[ListenSocket]) -> Vec<Target> {
    let mut targets = Vec::new();
    for endpoint in places.iter().flat_map(|place| &place.endpoints) {
        let Some(address) = endpoint.inet() else { continue };
        let counts = |found: &&ListenSocket| listener(found).is_some_and(|found| endpoint.overlaps(&found.endpoint));
        let mut interfaces: BTreeSet<u32> = sockets.iter().filter(counts).map(|found| found.interface).collect();
        if interfaces.is_empty() || interfaces.contains(&0) {
            interfaces = [0].into();
        }
        targets.extend(interfaces.into_iter().map(|interface| Target { address, v6only: endpoint.v6only, interface }));
    }
    let mut listed = HashSet::new();
    targets.retain(|target| listed.insert(*target));
    targets
}

/// Foreign listeners on single addresses of a wildcard that is held. The processes of a foreign listener have no listener on the wildcard. SYNs
/// for foreign listeners are not held. Where the wildcard has no listener, it is not known which listeners are foreign, so there are no
/// exceptions.
pub(super) fn exceptions(
    places: &[RequestedListener],
    sockets: &[ListenSocket],
    owners: &HashMap<u64, HashSet<u32>>,
) -> Vec<Exception> {
    let listeners: Vec<Listener> = sockets.iter().filter_map(listener).collect();
    let endpoints = || places.iter().flat_map(|place| &place.endpoints);
    let is_named = |found: &Endpoint| {
        let end = |endpoint: &Endpoint| endpoint.inet().map(|address| (address.ip(), address.port()));
        endpoints().any(|endpoint| end(endpoint) == end(found))
    };
    let is_somebody_elses = |found: &Listener| {
        let of_theirs = |endpoint: &&Endpoint| is_wildcard(endpoint) && endpoint.overlaps(&found.endpoint);
        let ours: HashSet<u32> = endpoints()
            .filter(of_theirs)
            .flat_map(|meant| {
                listeners.iter().filter(|one| is_wildcard(&one.endpoint) && meant.overlaps(&one.endpoint))
            })
            .filter_map(|one| owners.get(&one.inode))
            .flatten()
            .copied()
            .collect();
        let theirs = owners.get(&found.inode).filter(|theirs| !theirs.is_empty());
        !ours.is_empty() && theirs.is_some_and(|theirs| theirs.is_disjoint(&ours))
    };
    let excepted = |found: &&ListenSocket| {
        listener(found).is_some_and(|found| !is_named(&found.endpoint) && is_somebody_elses(&found))
    };
    sockets.iter().filter(excepted).filter_map(Exception::from_listener).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn socket(address: &str, inode: u64) -> ListenSocket {
        let address = Address::Inet(address.parse().unwrap());
        ListenSocket { inode, address, interface: 0, v6only: false, file: None, queued: 0, backlog: 9 }
    }

    pub(in super::super) fn v6only(address: &str, inode: u64) -> ListenSocket {
        ListenSocket { v6only: true, ..socket(address, inode) }
    }

    pub(in super::super) fn one_of(addresses: &[&str]) -> Listen {
        Listen::OneOf(addresses.iter().map(|address| address.parse().unwrap()).collect())
    }

    pub(in super::super) fn owners(of: &[(u64, &[u32])]) -> HashMap<u64, HashSet<u32>> {
        of.iter().map(|(inode, pids)| (*inode, pids.iter().copied().collect())).collect()
    }

    /// Every address a target holds, as `ADDRESS/families%device`.
    fn held(listen: Listen, sockets: &[ListenSocket]) -> Vec<String> {
        let places = places(&[listen], sockets);
        let families = |target: &Target| match (target.address, target.v6only) {
            (SocketAddr::V4(_), _) => "4",
            (_, true) => "6",
            _ => "46",
        };
        let text = |target: &Target| format!("{}/{}%{}", target.address, families(target), target.interface);
        targets(&places, sockets).iter().map(text).collect()
    }

    #[test]
    fn wildcard_covers_both_families_however_it_is_bound() {
        let any = || Listen::EveryAddress(80);
        for sockets in [
            vec![],
            vec![socket("[::]:80", 1)],
            vec![v6only("[::]:80", 1)],
            vec![socket("0.0.0.0:80", 1), v6only("[::]:80", 2)],
            vec![socket("127.0.0.1:80", 1)],
        ] {
            assert_eq!(held(any(), &sockets), ["[::]:80/46%0"], "{sockets:?}");
            let places = places(&[any()], &sockets);
            assert!(sockets.iter().all(|found| places[0].has(&listener(found).unwrap().endpoint)));
        }
    }

    #[test]
    fn a_wildcard_of_both_families_is_held_as_it_is_bound() {
        let any = || one_of(&["[::]:80"]);
        assert_eq!(held(any(), &[]), ["[::]:80/46%0"]);
        assert_eq!(held(any(), &[socket("[::]:80", 1)]), ["[::]:80/46%0"]);
        assert_eq!(held(any(), &[v6only("[::]:80", 1)]), ["[::]:80/6%0"]);
        assert_eq!(held(any(), &[socket("0.0.0.0:80", 2)]), ["[::]:80/46%0"]);
        assert_eq!(held(any(), &[socket("[::]:80", 1), socket("0.0.0.0:80", 2)]), ["[::]:80/46%0"]);
        let pair = [v6only("[::]:80", 1), socket("0.0.0.0:80", 2)];
        assert_eq!(held(any(), &pair), ["[::]:80/6%0"]);
        let place = &places(&[any()], &pair)[0];
        let counts = pair.each_ref().map(|found| place.has(&listener(found).unwrap().endpoint));
        assert_eq!(counts, [true, false], "what is not held does not count");
    }

    #[test]
    fn every_device_that_is_listened_on_is_held() {
        let on = |interface, address| ListenSocket { interface, ..socket(address, interface.into()) };
        let two = [on(2, "0.0.0.0:80"), on(3, "0.0.0.0:80")];
        assert_eq!(held(one_of(&["0.0.0.0:80"]), &two), ["0.0.0.0:80/4%2", "0.0.0.0:80/4%3"]);
        assert_eq!(held(one_of(&["10.0.0.1:80"]), &two[..1]), ["10.0.0.1:80/4%2"]);
        let one_on_all = [on(2, "0.0.0.0:80"), on(0, "10.0.0.1:80")];
        assert_eq!(held(Listen::EveryAddress(80), &one_on_all), ["[::]:80/46%0"]);
    }

    #[test]
    fn name_stands_for_the_addresses_that_are_listened_on() {
        let name = || one_of(&["[::1]:80", "127.0.0.1:80"]);
        assert_eq!(held(name(), &[socket("127.0.0.1:80", 1)]), ["127.0.0.1:80/4%0"]);
        assert_eq!(held(name(), &[socket("[::]:80", 1)]).len(), 2);
        assert_eq!(held(name(), &[]).len(), 2);
        assert_eq!(places(&[name(), name()], &[]).len(), 1);
    }

    fn excepted(listen: &[Listen], sockets: &[ListenSocket], owned: &[(u64, &[u32])]) -> Vec<String> {
        let found = exceptions(&places(listen, sockets), sockets, &owners(owned));
        found.iter().map(|exception| exception.address.ip().to_string()).collect()
    }

    #[test]
    fn wildcard_leaves_foreign_listeners_alone_and_holds_its_own_servers() {
        let sockets =
            [socket("0.0.0.0:80", 1), socket("10.0.0.1:80", 2), socket("10.0.0.2:80", 3), socket("10.0.0.2:81", 4)];
        let owned: &[(u64, &[u32])] = &[(1, &[50]), (2, &[60]), (3, &[50]), (4, &[60])];
        assert_eq!(excepted(&[one_of(&["0.0.0.0:80"])], &sockets, owned), ["10.0.0.1"]);
        assert_eq!(excepted(&[Listen::EveryAddress(80)], &sockets, owned), ["10.0.0.1"]);
        let named = [Listen::EveryAddress(80), one_of(&["10.0.0.1:80"])];
        assert_eq!(excepted(&named, &sockets, owned), [""; 0]);
        assert_eq!(excepted(&[one_of(&["10.0.0.1:80"])], &sockets, owned), [""; 0]);
    }

    #[test]
    fn listener_without_a_known_owner_is_not_foreign() {
        let any = [Listen::EveryAddress(80)];
        let single = [socket("127.0.0.1:80", 1), socket("10.0.0.1:80", 2), socket("0.0.0.0:81", 3)];
        let owned: &[(u64, &[u32])] = &[(1, &[50]), (2, &[60]), (3, &[70])];
        assert_eq!(excepted(&any, &single, owned), [""; 0], "no process has the wildcard of this port");
        assert_eq!(excepted(&[Listen::EveryAddress(80), Listen::EveryAddress(81)], &single, owned), [""; 0]);
        let other_family = [socket("0.0.0.0:80", 1), socket("[fd00::5]:80", 2)];
        assert_eq!(excepted(&any, &other_family, &[(1, &[50]), (2, &[50])]), [""; 0]);
        assert_eq!(excepted(&any, &other_family, &[(1, &[50]), (2, &[60])]), ["fd00::5"]);
        assert_eq!(excepted(&any, &other_family, &[(1, &[50])]), [""; 0], "whose it is cannot be seen");
        assert_eq!(excepted(&any, &other_family, &[(2, &[50])]), [""; 0], "whose the wildcard is cannot be seen");
    }
}

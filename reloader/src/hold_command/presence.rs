//! Compares the listeners on the held ports before the command and after it. Pure.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::targets::{RequestedListener, is_wildcard, listener};
use crate::kernel::sock_diag::ListenSocket;
use crate::model::listener::{Endpoint, Listener};

/// The listeners of each `--listen` at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Presence {
    places: Vec<RequestedListener>,
    /// One list for each `--listen`, in their order.
    pub(super) listeners_of: Vec<Vec<Listener>>,
}

/// How the listeners have changed since before the command. The worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ListenerTransition {
    /// At least one `--listen` has no listener.
    Missing,
    /// Each `--listen` has a new listener, but a new one is missing on an address that had a listener before.
    Partly,
    /// At least one `--listen` has only the listeners that were there before the command.
    Before,
    /// Each `--listen` has a new listener, but some earlier listeners have not closed.
    Both,
    /// Each `--listen` has a new listener, or its earlier listener is now in another process.
    New,
}

impl Presence {
    /// Finds the listeners of each `--listen` among all TCP listeners of the machine.
    pub(super) fn new(places: &[RequestedListener], sockets: &[ListenSocket]) -> Presence {
        let all: Vec<Listener> = sockets.iter().filter_map(listener).collect();
        let of = places.iter().map(|place| all.iter().filter(|found| place.has(&found.endpoint)).cloned().collect());
        Presence { places: places.to_vec(), listeners_of: of.collect() }
    }

    /// Each listener once.
    pub(super) fn listeners(&self) -> Vec<Listener> {
        let mut listed = HashSet::new();
        self.listeners_of.iter().flatten().filter(|listener| listed.insert(listener.inode)).cloned().collect()
    }

    fn inodes(&self) -> HashSet<u64> {
        self.listeners_of.iter().flatten().map(|listener| listener.inode).collect()
    }
}

/// Decides how the listeners have changed. `owners` are the processes that have a socket now. `owners_before` are those that had it before the
/// command. A socket that another process has now (socket activation) is as good as a new one.
pub(super) fn transition(
    before: &Presence,
    now: &Presence,
    owners_before: &HashMap<u64, HashSet<u32>>,
    owners: &HashMap<u64, HashSet<u32>>,
) -> ListenerTransition {
    let old = before.inodes();
    let in_new_hands = |inode: u64| match (owners_before.get(&inode), owners.get(&inode)) {
        (Some(before), Some(now)) => !now.is_subset(before),
        _ => false,
    };
    let mut stand = ListenerTransition::New;
    for ((place, earlier), listeners) in before.places.iter().zip(&before.listeners_of).zip(&now.listeners_of) {
        let fresh = listeners.iter().any(|listener| !old.contains(&listener.inode) || in_new_hands(listener.inode));
        let stale = listeners.iter().any(|listener| old.contains(&listener.inode) && !in_new_hands(listener.inode));
        stand = match (fresh, stale) {
            (false, false) => return ListenerTransition::Missing,
            (false, true) => ListenerTransition::Before,
            (true, _) if !earlier.iter().all(|old| is_served(place, old, listeners)) => {
                ListenerTransition::Partly.min(stand)
            }
            (true, true) => ListenerTransition::Both.min(stand),
            _ => stand,
        };
    }
    stand
}

/// Whether the clients of an earlier listener find one of `listeners`. That may be the earlier listener itself.
pub(super) fn is_served(place: &RequestedListener, old: &Listener, listeners: &[Listener]) -> bool {
    let mut shared = place.endpoints.iter().filter(|endpoint| endpoint.overlaps(&old.endpoint));
    shared.all(|endpoint| is_served_by(&old.endpoint, endpoint, listeners))
}

/// Whether the clients of an earlier listener at this endpoint find one of `listeners`.
fn is_served_by(old: &Endpoint, meant: &Endpoint, listeners: &[Listener]) -> bool {
    let found = |by: SocketAddr| listeners.iter().any(|now| now.endpoint.covers(by));
    let (Some(bound), Some(meant_address)) = (old.inet(), meant.inet()) else { return true };
    if !is_wildcard(meant) {
        // All clients of one address find any listener of it.
        return found(meant_address);
    }
    if !is_wildcard(old) {
        return found(bound);
    }
    let families: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let mut any = families.into_iter().map(|any| SocketAddr::new(any, bound.port()));
    any.all(|any| !old.covers(any) || !meant.covers(any) || found(any))
}

#[cfg(test)]
mod tests {
    use super::super::listen::Listen;
    use super::super::targets::places;
    use super::super::targets::tests::{one_of, owners, socket, v6only};
    use super::*;

    fn standing(listen: &[Listen], before: &[ListenSocket]) -> impl Fn(&[ListenSocket]) -> ListenerTransition + use<> {
        let places = places(listen, before);
        let (before, none) = (Presence::new(&places, before), HashMap::new());
        move |now| transition(&before, &Presence::new(&places, now), &none, &none)
    }

    #[test]
    fn wait_ends_with_a_new_inode_on_every_port() {
        let ports = [one_of(&["127.0.0.1:80"]), one_of(&["127.0.0.1:81"])];
        let stand = standing(&ports, &[socket("0.0.0.0:80", 1), socket("127.0.0.1:81", 2)]);
        assert_eq!(stand(&[socket("0.0.0.0:80", 1), socket("127.0.0.1:81", 2)]), ListenerTransition::Before);
        assert_eq!(stand(&[socket("0.0.0.0:80", 3)]), ListenerTransition::Missing);
        assert_eq!(stand(&[socket("0.0.0.0:80", 3), socket("127.0.0.1:81", 2)]), ListenerTransition::Before);
        assert_eq!(
            stand(&[socket("0.0.0.0:80", 3), socket("0.0.0.0:80", 1), socket("127.0.0.1:81", 4)]),
            ListenerTransition::Both
        );
        assert_eq!(stand(&[socket("[::]:80", 3), socket("127.0.0.1:81", 4)]), ListenerTransition::New);
        assert_eq!(stand(&[socket("127.0.0.1:80", 3), socket("127.0.0.1:81", 4)]), ListenerTransition::New);
        assert_eq!(stand(&[socket("127.0.0.2:80", 3), socket("127.0.0.1:81", 4)]), ListenerTransition::Missing);
    }

    #[test]
    fn wait_includes_every_address_that_was_listened_on() {
        let pair = standing(&[Listen::EveryAddress(80)], &[socket("0.0.0.0:80", 1), v6only("[::]:80", 2)]);
        assert_eq!(pair(&[socket("0.0.0.0:80", 3)]), ListenerTransition::Partly);
        assert_eq!(pair(&[v6only("[::]:80", 3)]), ListenerTransition::Partly);
        assert_eq!(pair(&[socket("0.0.0.0:80", 3), v6only("[::]:80", 4)]), ListenerTransition::New);
        assert_eq!(
            pair(&[socket("[::]:80", 3)]),
            ListenerTransition::New,
            "one of both families takes the place of two"
        );
        let one_of_both = standing(&[Listen::EveryAddress(80)], &[socket("[::]:80", 1)]);
        assert_eq!(one_of_both(&[v6only("[::]:80", 3)]), ListenerTransition::Partly);
        assert_eq!(one_of_both(&[v6only("[::]:80", 3), socket("0.0.0.0:80", 4)]), ListenerTransition::New);
        let ipv4 = standing(&[one_of(&["0.0.0.0:80"])], &[socket("[::]:80", 1)]);
        assert_eq!(ipv4(&[socket("0.0.0.0:80", 3)]), ListenerTransition::New, "no more was asked for");
        let single = standing(&[one_of(&["[::]:80"])], &[socket("10.0.0.1:80", 1), socket("10.0.0.2:80", 2)]);
        assert_eq!(single(&[socket("0.0.0.0:80", 5)]), ListenerTransition::New);
        assert_eq!(single(&[socket("10.0.0.1:80", 5)]), ListenerTransition::Partly);
    }

    #[test]
    fn one_address_of_a_name_is_enough_unless_more_were_listened_on() {
        let name = || [one_of(&["[::1]:80", "127.0.0.1:80"])];
        assert_eq!(standing(&name(), &[])(&[socket("127.0.0.1:80", 1)]), ListenerTransition::New);
        assert_eq!(standing(&name(), &[])(&[]), ListenerTransition::Missing);
        let both = standing(&name(), &[socket("127.0.0.1:80", 1), socket("[::1]:80", 2)]);
        assert_eq!(both(&[socket("127.0.0.1:80", 3)]), ListenerTransition::Partly);
        assert_eq!(both(&[socket("[::]:80", 3)]), ListenerTransition::New);
    }

    #[test]
    fn socket_in_another_process_is_as_good_as_a_new_one() {
        let sockets = [socket("127.0.0.1:80", 1)];
        let before = Presence::new(&places(&[one_of(&["127.0.0.1:80"])], &sockets), &sockets);
        let stand =
            |now: &[(u64, &[u32])]| transition(&before, &before.clone(), &owners(&[(1, &[1, 50])]), &owners(now));
        assert_eq!(stand(&[(1, &[1, 50])]), ListenerTransition::Before);
        assert_eq!(stand(&[(1, &[1])]), ListenerTransition::Before);
        assert_eq!(stand(&[(1, &[1, 77])]), ListenerTransition::New);
    }
}

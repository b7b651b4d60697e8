//! Not more SYNs at once than a listener has room for: TCP drops what meets a full queue, and its client waits a second.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::listener::Address;

/// For how long a server is waited for that accepts nothing, and for how long in all. The clients try again after a second, and
/// then after three.
const BACKLOG_TIMEOUT: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(2);

/// How many SYNs each listener can be sent before it has to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    budgets: HashMap<DestinationKey, Budget>,
    /// As they were at the last look.
    listeners: Vec<ListenSocket>,
    /// Of all waiting, since the first SYN.
    end: Option<Instant>,
}

/// Where listeners share what comes: one wildcard has one queue for all of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct DestinationKey {
    port: u16,
    /// `None` for a wildcard, of either family.
    address: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Budget {
    left: u64,
    /// It has accepted nothing for as long as it is waited for: TCP decides from here on.
    given_up: bool,
}

/// Of a listener's queue, counted in connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    free: u64,
    of: u64,
}

impl Pacing {
    /// Returns when a SYN to this address can be sent.
    pub(super) fn wait_for_room(&mut self, destination: SocketAddr) {
        let end = match self.end {
            Some(end) => end,
            None => {
                self.look();
                *self.end.insert(Instant::now() + LONGEST)
            }
        };
        let place = DestinationKey::from_destination(destination, &self.listeners);
        let budget = self.budgets.entry(place).or_default();
        if budget.given_up {
            return;
        }
        if budget.left > 0 {
            budget.left -= 1;
            return;
        }
        let left = self.next_budget(place, end);
        let budget = Budget { left: left.unwrap_or(1) - 1, given_up: left.is_none() };
        self.budgets.insert(place, budget);
    }

    /// Looks until there is room: no event tells that a connection was accepted. `None` where nobody listens, nobody accepts, or
    /// the kernel does not say: delivered all the same.
    #[expect(clippy::disallowed_methods, reason = "only the thread of a hold delivers")]
    fn next_budget(&mut self, place: DestinationKey, end: Instant) -> Option<u64> {
        let end = end.min(Instant::now() + BACKLOG_TIMEOUT);
        loop {
            self.look();
            let room = room(&self.listeners, half_open_at(place)?, place)?;
            if room.is_worth_it() {
                return Some(room.budget());
            }
            if Instant::now() >= end {
                return None;
            }
            sleep(Duration::from_millis(1));
        }
    }

    fn look(&mut self) {
        self.listeners = sock_diag::tcp_listeners().unwrap_or_default();
    }
}

impl DestinationKey {
    fn from_destination(destination: SocketAddr, listeners: &[ListenSocket]) -> DestinationKey {
        let exact = DestinationKey { port: destination.port(), address: Some(destination.ip()) };
        let is_exact = listeners.iter().any(|listener| exact.is_of(listener));
        if is_exact { exact } else { DestinationKey { address: None, ..exact } }
    }

    fn is_of(self, listener: &ListenSocket) -> bool {
        let Address::Inet(at) = listener.address else { return false };
        let here = match self.address {
            Some(address) => at.ip().to_canonical() == address,
            None => at.ip().is_unspecified(),
        };
        at.port() == self.port && here
    }
}

impl Room {
    /// To look costs more than to send a few.
    fn is_worth_it(self) -> bool {
        self.free > self.of / 8
    }

    /// New SYNs come beside ours.
    fn budget(self) -> u64 {
        self.free.div_ceil(2)
    }
}

/// Of a wildcard, those of its whole port: better too few SYNs at once than too many.
fn half_open_at(place: DestinationKey) -> Option<u64> {
    let half_open = sock_diag::half_open(place.port).ok()?;
    let is_here = |local: &SocketAddr| place.address.is_none_or(|address| local.ip().to_canonical() == address);
    Some(half_open.iter().filter(|connection| is_here(&connection.local)).count() as u64)
}

/// What the fullest listener of a reuseport group still takes. None where nobody listens.
fn room(listeners: &[ListenSocket], half_open: u64, place: DestinationKey) -> Option<Room> {
    let his = listeners.iter().filter(|listener| place.is_of(listener));
    his.map(|listener| {
        // The queue takes one more than the backlog says (`sk_acceptq_is_full` in include/net/sock.h).
        let of = u64::from(listener.backlog) + 1;
        Room { free: of.saturating_sub(u64::from(listener.queued) + half_open), of }
    })
    .min_by_key(|room| room.free)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str, queued: u32, backlog: u32) -> ListenSocket {
        let address = Address::Inet(address.parse().unwrap());
        ListenSocket { inode: 1, address, interface: 0, v6only: false, queued, backlog }
    }

    fn room_for(destination: &str, half_open: u64, listeners: &[ListenSocket]) -> Option<u64> {
        let place = DestinationKey::from_destination(destination.parse().unwrap(), listeners);
        room(listeners, half_open, place).map(|room| room.free)
    }

    #[test]
    fn room_is_what_queue_and_half_opens_leave() {
        let listeners = [listener("0.0.0.0:80", 100, 128), listener("0.0.0.0:81", 0, 128)];
        assert_eq!(room_for("10.0.0.1:80", 9, &listeners), Some(20));
        assert_eq!(room_for("10.0.0.1:80", 40, &listeners), Some(0));
        assert_eq!(room_for("10.0.0.1:82", 0, &listeners), None);
    }

    #[test]
    fn half_of_the_room_is_used_unless_it_is_hardly_any() {
        let room = |free| Room { free, of: 129 };
        assert_eq!((room(129).budget(), room(17).budget()), (65, 9));
        assert!(room(17).is_worth_it() && !room(16).is_worth_it());
        let smallest = Room { free: 1, of: 2 };
        assert!(smallest.is_worth_it() && smallest.budget() == 1);
        assert!(!Room { free: 0, of: 2 }.is_worth_it());
    }

    #[test]
    fn the_fullest_of_a_group_decides_and_the_exact_address_comes_first() {
        let listeners = [
            listener("[::]:80", 0, 9),
            listener("[::]:80", 6, 9),
            listener("10.0.0.1:80", 10, 9),
            listener("0.0.0.0:80", 5, 9),
        ];
        assert_eq!(room_for("[fd00::1]:80", 0, &listeners), Some(4));
        assert_eq!(room_for("10.0.0.2:80", 0, &listeners), Some(4));
        assert_eq!(room_for("10.0.0.1:80", 0, &listeners), Some(0));
        assert_eq!(room_for("10.0.0.2:80", 0, &[listener("[::ffff:10.0.0.2]:80", 0, 9)]), Some(10));
    }

    #[test]
    fn all_addresses_of_a_wildcard_are_one_place() {
        let listeners = [listener("0.0.0.0:80", 0, 9), listener("10.0.0.1:80", 0, 9)];
        let place = |address: &str| DestinationKey::from_destination(address.parse().unwrap(), &listeners);
        assert_eq!(place("10.0.0.2:80"), place("10.0.0.3:80"));
        assert_ne!(place("10.0.0.1:80"), place("10.0.0.3:80"));
        assert_eq!(place("10.0.0.1:80").address, Some("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn the_whole_delivery_has_one_end() {
        let mut pacing =
            Pacing { end: Some(Instant::now()), listeners: vec![listener("0.0.0.0:80", 9, 9)], ..Pacing::default() };
        let place = DestinationKey { port: 80, address: None };
        pacing.budgets.insert(place, Budget { left: 2, given_up: false });
        pacing.wait_for_room("10.0.0.1:80".parse().unwrap());
        pacing.wait_for_room("10.0.0.2:80".parse().unwrap());
        assert_eq!(pacing.budgets[&place].left, 0);
        // Nobody listens there really.
        pacing.wait_for_room("10.0.0.3:80".parse().unwrap());
        assert!(pacing.budgets.values().any(|budget| budget.given_up));
    }
}

//! Delivers no more SYNs at once than a listener has room for. TCP drops a SYN that meets a full queue, and its client waits a second.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Instant;

use super::timing::{BACKLOG_POLL_INTERVAL, BACKLOG_TIMEOUT, PACING_LIMIT};
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::listener::Address;

/// How many SYNs each listener can get before its queue must be looked at again.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    budgets: HashMap<DestinationKey, Budget>,
    /// The listeners of this machine at the last look.
    listeners: Vec<ListenSocket>,
    /// When all waiting ends. Set at the first SYN.
    end: Option<Instant>,
}

/// Listeners that share their queues. A wildcard has one queue for all of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct DestinationKey {
    port: u16,
    /// `None` for a wildcard, of either family.
    address: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Budget {
    /// How many SYNs can still be sent.
    left: u64,
    /// The server accepted nothing for [`BACKLOG_TIMEOUT`]. From then on SYNs are sent without waiting, and TCP decides.
    given_up: bool,
}

/// The room in a listener's queue, in connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    free: u64,
    total: u64,
}

impl Pacing {
    /// Returns when a SYN to this address can be sent.
    pub(super) fn wait_for_room(&mut self, destination: SocketAddr) {
        let end = match self.end {
            Some(end) => end,
            None => {
                self.look();
                *self.end.insert(Instant::now() + PACING_LIMIT)
            }
        };
        let key = DestinationKey::from_destination(destination, &self.listeners);
        let budget = self.budgets.entry(key).or_default();
        if budget.given_up {
            return;
        }
        if budget.left > 0 {
            budget.left -= 1;
            return;
        }
        let left = self.next_budget(key, end);
        let budget = Budget { left: left.unwrap_or(1) - 1, given_up: left.is_none() };
        self.budgets.insert(key, budget);
    }

    /// Waits until there is room, and returns how many SYNs can be sent. `None` where there is no listener, no connection is accepted,
    /// or the kernel does not tell: the SYN is delivered all the same.
    #[expect(clippy::disallowed_methods, reason = "only the thread of a hold and its guard deliver")]
    fn next_budget(&mut self, key: DestinationKey, end: Instant) -> Option<u64> {
        let end = end.min(Instant::now() + BACKLOG_TIMEOUT);
        loop {
            self.look();
            let room = room(&self.listeners, half_open_at(key)?, key)?;
            if room.is_worth_using() {
                return Some(room.budget());
            }
            if Instant::now() >= end {
                return None;
            }
            sleep(BACKLOG_POLL_INTERVAL);
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
        let is_same_address = match self.address {
            Some(address) => at.ip().to_canonical() == address,
            None => at.ip().is_unspecified(),
        };
        at.port() == self.port && is_same_address
    }
}

impl Room {
    /// A look costs more than sending a few SYNs.
    fn is_worth_using(self) -> bool {
        self.free > self.total / 8
    }

    /// How many SYNs can be sent. New SYNs arrive beside them, so it is half of the room.
    fn budget(self) -> u64 {
        self.free.div_ceil(2)
    }
}

/// How many connections are half-open there. For a wildcard those of its whole port count: too few SYNs at once are better than too
/// many.
fn half_open_at(key: DestinationKey) -> Option<u64> {
    let half_open = sock_diag::half_open(key.port).ok()?;
    let is_here = |local: &SocketAddr| key.address.is_none_or(|address| local.ip().to_canonical() == address);
    Some(half_open.iter().filter(|connection| is_here(&connection.local)).count() as u64)
}

/// What the fullest listener of a reuseport group still takes. `None` where there is no listener.
fn room(listeners: &[ListenSocket], half_open: u64, key: DestinationKey) -> Option<Room> {
    let ours = listeners.iter().filter(|listener| key.is_of(listener));
    ours.map(|listener| {
        // The queue takes one more than the backlog says (`sk_acceptq_is_full` in include/net/sock.h).
        let total = u64::from(listener.backlog) + 1;
        Room { free: total.saturating_sub(u64::from(listener.queued) + half_open), total }
    })
    .min_by_key(|room| room.free)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str, queued: u32, backlog: u32) -> ListenSocket {
        let address = Address::Inet(address.parse().unwrap());
        ListenSocket { inode: 1, address, interface: 0, v6only: false, file: None, queued, backlog }
    }

    fn room_for(destination: &str, half_open: u64, listeners: &[ListenSocket]) -> Option<u64> {
        let key = DestinationKey::from_destination(destination.parse().unwrap(), listeners);
        room(listeners, half_open, key).map(|room| room.free)
    }

    #[test]
    fn room_is_what_queued_and_half_open_connections_leave() {
        let listeners = [listener("0.0.0.0:80", 100, 128), listener("0.0.0.0:81", 0, 128)];
        assert_eq!(room_for("10.0.0.1:80", 9, &listeners), Some(20));
        assert_eq!(room_for("10.0.0.1:80", 40, &listeners), Some(0));
        assert_eq!(room_for("10.0.0.1:82", 0, &listeners), None);
    }

    #[test]
    fn half_of_the_room_is_used_unless_less_than_an_eighth_is_free() {
        let room = |free| Room { free, total: 129 };
        assert_eq!((room(129).budget(), room(17).budget()), (65, 9));
        assert!(room(17).is_worth_using() && !room(16).is_worth_using());
        let smallest = Room { free: 1, total: 2 };
        assert!(smallest.is_worth_using() && smallest.budget() == 1);
        assert!(!Room { free: 0, total: 2 }.is_worth_using());
    }

    #[test]
    fn the_fullest_listener_of_a_group_decides_and_an_exact_address_comes_before_a_wildcard() {
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
    fn all_addresses_of_a_wildcard_share_one_queue() {
        let listeners = [listener("0.0.0.0:80", 0, 9), listener("10.0.0.1:80", 0, 9)];
        let key_of = |address: &str| DestinationKey::from_destination(address.parse().unwrap(), &listeners);
        assert_eq!(key_of("10.0.0.2:80"), key_of("10.0.0.3:80"));
        assert_ne!(key_of("10.0.0.1:80"), key_of("10.0.0.3:80"));
        assert_eq!(key_of("10.0.0.1:80").address, Some("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn waiting_for_all_listeners_has_one_limit() {
        let mut pacing =
            Pacing { end: Some(Instant::now()), listeners: vec![listener("0.0.0.0:80", 9, 9)], ..Pacing::default() };
        let key = DestinationKey { port: 80, address: None };
        pacing.budgets.insert(key, Budget { left: 2, given_up: false });
        pacing.wait_for_room("10.0.0.1:80".parse().unwrap());
        pacing.wait_for_room("10.0.0.2:80".parse().unwrap());
        assert_eq!(pacing.budgets[&key].left, 0);
        // In fact there is no listener.
        pacing.wait_for_room("10.0.0.3:80".parse().unwrap());
        assert!(pacing.budgets.values().any(|budget| budget.given_up));
    }
}

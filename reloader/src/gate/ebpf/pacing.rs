//! Not more SYNs at once than a listener has room for: TCP drops what meets a full queue, and its client waits a second.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::kernel::sock_diag::{self, ListenSocket};
use crate::listener::Address;

/// For how long a server is waited for that accepts nothing, and for how long in all, at one address. The clients try again
/// after a second, and then after three.
const PATIENCE: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(2);

/// How many SYNs each listener can be sent before it has to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    budgets: HashMap<SocketAddr, Budget>,
}

#[derive(Debug)]
struct Budget {
    left: u64,
    end: Instant,
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
        let new = || Budget { left: 0, end: Instant::now() + LONGEST };
        let budget = self.budgets.entry(destination).or_insert_with(new);
        if budget.left == 0 {
            budget.left = next_budget(destination, budget.end);
        }
        budget.left -= 1;
    }
}

/// Looks until there is room: no event tells that a connection was accepted.
fn next_budget(destination: SocketAddr, end: Instant) -> u64 {
    let end = end.min(Instant::now() + PATIENCE);
    loop {
        match room_at(destination) {
            Some(room) if room.is_worth_it() => return room.budget(),
            Some(_) if Instant::now() < end => sleep(Duration::from_millis(1)),
            // Nobody listens, nobody accepts, or the kernel does not say: delivered all the same, and TCP decides.
            _ => return u64::MAX,
        }
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

fn room_at(destination: SocketAddr) -> Option<Room> {
    let listeners = sock_diag::tcp_listeners().ok()?;
    let half_open = sock_diag::half_open(destination.port()).ok()?;
    let half_open = half_open.iter().filter(|connection| connection.local.ip().to_canonical() == destination.ip());
    room(&listeners, half_open.count() as u64, destination)
}

/// What the fullest listener of a reuseport group still takes. None where nobody listens.
fn room(listeners: &[ListenSocket], half_open: u64, destination: SocketAddr) -> Option<Room> {
    let fullest = |is_his: &dyn Fn(SocketAddr) -> bool| {
        let his = listeners.iter().filter(|listener| matches!(listener.address, Address::Inet(at) if is_his(at)));
        his.map(|listener| {
            // The queue takes one more than the backlog says (`sk_acceptq_is_full` in include/net/sock.h).
            let of = u64::from(listener.backlog) + 1;
            Room { free: of.saturating_sub(u64::from(listener.queued) + half_open), of }
        })
        .min_by_key(|room| room.free)
    };
    let exact = fullest(&|at| at.port() == destination.port() && at.ip().to_canonical() == destination.ip());
    let any = || fullest(&|at| at.port() == destination.port() && is_any_for(at.ip(), destination.ip()));
    exact.or_else(any)
}

fn is_any_for(listened: IpAddr, destination: IpAddr) -> bool {
    // A listener on `::` may serve IPv4 too.
    listened.is_unspecified() && (listened.is_ipv6() || destination.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str, queued: u32, backlog: u32) -> ListenSocket {
        let address = Address::Inet(address.parse().unwrap());
        ListenSocket { inode: 1, address, interface: 0, v6only: false, queued, backlog }
    }

    fn room_for(destination: &str, half_open: u64, listeners: &[ListenSocket]) -> Option<u64> {
        room(listeners, half_open, destination.parse().unwrap()).map(|room| room.free)
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
}

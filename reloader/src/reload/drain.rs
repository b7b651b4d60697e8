//! Drains the old listeners inside a hold, and watches for SYNs that reach them by a way that the hold does not cover.
//!
//! Both are read from sock_diag. No event tells of a change there, so it is read each millisecond, for half a second at most.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::timing::{IN_FLIGHT, POLL_INTERVAL};
use crate::gate::hold::Exception;
use crate::kernel::sock_diag::{self, Connection, Endpoints, SockDiagError};
use crate::kernel::syncookies::SynCookies;
use crate::model::listener::{Address, Endpoint, Listener};
use crate::process::run_blocking;
use crate::receipt::{Doubt, ReasonCode};

/// A drain inside a hold ends after this time, empty or not.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// How long at least to watch for a connection that the hold should have prevented.
const WATCHED: Duration = Duration::from_millis(6);

/// From this many ports on, one list of all connections costs less than a list for each port.
const MANY_PORTS: usize = 8;

/// From this many closed connections on, a list of them takes too long inside a hold. Where there are so many, each look finds some that are
/// open.
const MANY_CLOSED: usize = 4000;

/// What the kernel shows of the held ports at one moment.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// Accept queues by inode.
    pub(crate) queues: HashMap<u64, u32>,
    /// Handshakes that wait for the client's ACK.
    pub(crate) half_open: Vec<Connection>,
    /// Connections, accepted or not.
    pub(crate) open: Vec<Connection>,
    /// Connections that the server has closed. A connection that the server answers and closes at once shows in no other state.
    pub(crate) closed: Vec<Connection>,
    /// Established connections whose server owes an answer, where that was asked.
    pub(crate) unanswered: usize,
}

/// The connections that are left on a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Undrained {
    /// Connections in its accept queue.
    pub(crate) queue: u64,
    /// Half-open handshakes whose SYN-ACK was sent once.
    pub(crate) half_open: u64,
    /// Half-open handshakes whose SYN-ACK was sent again, because the client is silent.
    pub(crate) silent: u64,
}

impl Undrained {
    fn is_empty(self) -> bool {
        self.queue == 0 && self.half_open == 0
    }
}

/// Which sockets a look covers.
#[derive(Debug)]
struct View {
    /// Where SYNs are held.
    held: Vec<Endpoint>,
    /// Where SYNs are not held.
    exceptions: Vec<SocketAddr>,
    closed: bool,
}

/// The drain of the listeners under one hold.
#[derive(Debug)]
pub(crate) struct Drain {
    listeners: Vec<Listener>,
    view: Arc<View>,
    began: Instant,
    known: HashSet<Endpoints>,
    strangers: Vec<Endpoints>,
    /// As of the beginning of the reload: a cookie that was sent then may be answered in the bind window.
    cookies: Option<SynCookies>,
    last: Look,
    looked: bool,
    /// What was left on each listener when the drain ended, by inode.
    left: HashMap<u64, Undrained>,
    /// Why the kernel could not be asked.
    blind: Option<String>,
}

impl Drain {
    /// Begins a moment after the hold. `cookies` were read before it; `exceptions` are the addresses that it leaves to other servers.
    pub(crate) fn begin(
        listeners: Vec<Listener>,
        held: Vec<Endpoint>,
        exceptions: &[Exception],
        cookies: Option<SynCookies>,
    ) -> Drain {
        let view = View {
            held,
            // The kernel does not say by which device a connection came. One to a listener that is bound to a device stays a doubt.
            exceptions: exceptions.iter().filter(|found| found.interface == 0).map(|found| found.address).collect(),
            closed: sock_diag::time_wait_count().is_some_and(|count| count < MANY_CLOSED),
        };
        Drain {
            listeners,
            view: Arc::new(view),
            began: Instant::now(),
            known: HashSet::new(),
            strangers: Vec::new(),
            cookies,
            last: Look::default(),
            looked: false,
            left: HashMap::new(),
            blind: None,
        }
    }

    /// Waits until queues and handshakes are empty, for at most [`DRAIN_TIMEOUT`]. With `answers` it also waits until the server owes no
    /// answer: for a server that is going to be killed.
    pub(crate) async fn until_empty(&mut self, answers: bool) {
        loop {
            self.look(answers).await;
            let left = self.listeners.iter().map(|listener| (listener.inode, undrained(listener, &self.last)));
            self.left = left.collect();
            let time = self.began.elapsed();
            let empty = self.left.values().all(|undrained| undrained.is_empty());
            if self.blind.is_some() || time >= DRAIN_TIMEOUT || (time >= WATCHED && empty && self.last.unanswered == 0)
            {
                return;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Looks once more for connections that the hold should have prevented.
    ///
    /// It runs beside the loop: with very many connections a look takes long.
    pub(crate) async fn look(&mut self, answers: bool) {
        let view = self.view.clone();
        let look = match run_blocking(move || Look::now(&view, answers)).await {
            Ok(look) => look,
            Err(error) => return self.blind = Some(error.to_string()),
        };
        let ends = look.half_open.iter().chain(&look.open).chain(&look.closed).map(Connection::endpoints);
        if self.began.elapsed() < IN_FLIGHT || !self.looked {
            self.known.extend(ends);
        } else {
            let fresh: Vec<Endpoints> = ends.filter(|ends| !self.known.contains(ends)).collect();
            self.known.extend(&fresh);
            self.strangers.extend(fresh);
        }
        (self.last, self.looked) = (look, true);
    }

    /// What was left on the listener when the drain ended. Later looks find it closed, which proves nothing.
    pub(crate) fn undrained(&self, listener: &Listener) -> Undrained {
        self.left.get(&listener.inode).copied().unwrap_or_default()
    }

    /// Requests without an answer when the drain ended.
    pub(crate) fn unanswered(&self) -> usize {
        self.last.unanswered
    }

    /// Why the hold proves nothing for an endpoint, if so.
    pub(crate) fn doubt(&self, endpoint: &Endpoint) -> Option<Doubt> {
        let unobservable = |why: String| Some(Doubt::new(ReasonCode::Unobservable, why));
        if let Some(reason) = &self.blind {
            return unobservable(format!("it could not be seen whether its queue was empty: {reason}"));
        }
        if !self.looked {
            return unobservable("the hold ended before its queue was looked at".into());
        }
        if let Some(why) = hidden_by_cookies(self.cookies, SynCookies::read()) {
            return unobservable(why.into());
        }
        let (_, client) = self.strangers.iter().find(|(local, _)| endpoint.covers(*local))?;
        let why = format!(
            "a connection from {client} reached it during the hold: its SYN came by a way that is not covered (DNAT, REDIRECT, \
             IPVS or TPROXY), and others of that way may have been refused"
        );
        Some(Doubt::new(ReasonCode::Diverted, why))
    }
}

/// Why SYN cookies may have hidden half-open handshakes. Pure.
fn hidden_by_cookies(before: Option<SynCookies>, now: Option<SynCookies>) -> Option<&'static str> {
    match (before, now) {
        (_, Some(now)) if now.always => {
            Some("tcp_syncookies = 2 hides half-open handshakes, so lost handshakes cannot be seen")
        }
        (Some(before), Some(now)) if now.sent > before.sent => Some(
            "the kernel sent SYN cookies during the hold, so it cannot be seen that no half-open handshake was lost",
        ),
        (Some(_), Some(_)) => None,
        _ => Some("the kernel does not tell whether it sent SYN cookies, which hide half-open handshakes"),
    }
}

fn undrained(listener: &Listener, look: &Look) -> Undrained {
    let mut undrained =
        Undrained { queue: look.queues.get(&listener.inode).copied().unwrap_or(0).into(), ..Undrained::default() };
    if !matches!(listener.endpoint.address, Address::Inet(_)) {
        return undrained;
    }
    for connection in look.half_open.iter().filter(|connection| listener.endpoint.covers(connection.local)) {
        if connection.retransmits > 0 { undrained.silent += 1 } else { undrained.half_open += 1 }
    }
    undrained
}

impl Look {
    fn now(view: &View, answers: bool) -> Result<Look, SockDiagError> {
        let View { held, exceptions, closed } = view;
        let covered = |connection: &Connection| {
            !exceptions.contains(&connection.local) && held.iter().any(|endpoint| endpoint.covers(connection.local))
        };
        let ports: HashSet<u16> = held.iter().filter_map(Endpoint::port).collect();
        let asked: Vec<u16> = if ports.len() < MANY_PORTS { ports.into_iter().collect() } else { vec![0] };
        let mut look = Look::default();
        // A connection goes from half-open to the accept queue to the server. Read in this order, each is seen on its way.
        for port in &asked {
            look.half_open.extend(sock_diag::half_open(*port)?.into_iter().filter(covered));
        }
        look.queues = sock_diag::tcp_listeners()?.iter().map(|found| (found.inode, found.queued)).collect();
        for port in asked {
            look.open.extend(sock_diag::connections(port)?.into_iter().filter(covered));
            if *closed {
                look.closed.extend(sock_diag::time_wait(port)?.into_iter().filter(covered));
            }
            if answers {
                look.unanswered += sock_diag::unanswered(port)?.iter().filter(|owed| covered(owed)).count();
            }
        }
        Ok(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(remote: &str, retransmits: u8) -> Connection {
        Connection { inode: 0, local: "127.0.0.1:80".parse().unwrap(), remote: remote.parse().unwrap(), retransmits }
    }

    fn listener(address: &str) -> Listener {
        Listener { endpoint: Endpoint::stream(Address::Inet(address.parse().unwrap())), inode: 7 }
    }

    #[test]
    fn connections_to_held_listeners_are_seen_and_no_others() {
        let connected = || {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let client = std::net::TcpStream::connect(socket.local_addr().unwrap()).unwrap();
            (socket.local_addr().unwrap(), client, socket.accept().unwrap())
        };
        let ((address, client, _server), _other) = (connected(), connected());
        let held = vec![Endpoint::stream(Address::Inet(address))];
        let look = Look::now(&View { held, exceptions: Vec::new(), closed: false }, false).unwrap();
        let ends: Vec<Endpoints> = look.open.iter().map(|open| (open.local, open.remote)).collect();
        assert_eq!(ends, [(address, client.local_addr().unwrap())]);
    }

    #[test]
    fn silent_client_is_counted_apart() {
        let look = Look {
            queues: HashMap::from([(7, 3)]),
            half_open: vec![connection("127.0.0.1:1000", 0), connection("127.0.0.1:1001", 2)],
            ..Look::default()
        };
        let found = undrained(&listener("0.0.0.0:80"), &look);
        assert_eq!(found, Undrained { queue: 3, half_open: 1, silent: 1 });
        assert!(!found.is_empty());
        assert!(Undrained { queue: 0, half_open: 0, silent: 4 }.is_empty());
        assert_eq!(undrained(&listener("127.0.0.1:81"), &look).half_open, 0);
    }
}

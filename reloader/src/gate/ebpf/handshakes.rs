//! The handshakes of delivered SYNs, which the programs settle until they are done.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::packet::Segment;
use crate::kernel::sock_diag::{Endpoints, SockDiagError, half_open};

/// Who answers later than this is not on this host, and needs no settling; or is silent.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(20);

/// No event tells that a handshake is done.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Those that were begun by a delivered SYN.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    begun: HashSet<Endpoints>,
}

impl Handshakes {
    pub(super) fn begun(&mut self, syn: &Segment) {
        self.begun.insert((syn.destination(), syn.source()));
    }

    /// Waits until none is half-open. Where that cannot be seen it does not wait.
    #[expect(clippy::disallowed_methods, reason = "only the thread of a hold delivers")]
    pub(super) fn wait(&mut self) {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        while self.any_is_half_open().unwrap_or(false) && Instant::now() < deadline {
            sleep(POLL_INTERVAL);
        }
        self.begun.clear();
    }

    fn any_is_half_open(&self) -> Result<bool, SockDiagError> {
        let mut ports = self.begun.iter().map(|(local, _)| local.port());
        let Some(first) = ports.next() else { return Ok(false) };
        // Each list is a walk through the whole table of connections, whatever it is narrowed to.
        let port = if ports.all(|port| port == first) { first } else { 0 };
        Ok(half_open(port)?.iter().any(|connection| self.begun.contains(&canonical(connection.endpoints()))))
    }
}

/// A listener on `[::]` may have IPv4 clients.
fn canonical((local, remote): Endpoints) -> Endpoints {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    (canonical(local), canonical(remote))
}

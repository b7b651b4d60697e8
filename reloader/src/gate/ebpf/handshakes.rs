//! Waits for the handshakes of delivered SYNs, which the programs settle until they are done.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Instant;

use super::packet::Segment;
use super::timing::{HANDSHAKE_POLL_INTERVAL, HANDSHAKE_TIMEOUT};
use crate::kernel::sock_diag::{Endpoints, SockDiagError, half_open};

/// The handshakes that delivered SYNs have begun.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    begun: HashSet<Endpoints>,
}

impl Handshakes {
    /// A SYN was delivered.
    pub(super) fn begun(&mut self, syn: &Segment) {
        self.begun.insert((syn.destination(), syn.source()));
    }

    /// Waits until no handshake is half-open, for a limited time. Does not wait where the kernel does not list half-open connections.
    #[expect(clippy::disallowed_methods, reason = "only the thread of a hold and its guard deliver")]
    pub(super) fn wait(&mut self) {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        while self.any_is_half_open().unwrap_or(false) && Instant::now() < deadline {
            sleep(HANDSHAKE_POLL_INTERVAL);
        }
        self.begun.clear();
    }

    fn any_is_half_open(&self) -> Result<bool, SockDiagError> {
        let mut ports = self.begun.iter().map(|(local, _)| local.port());
        let Some(first) = ports.next() else { return Ok(false) };
        // For each list the kernel walks through its whole table of connections, whatever the list is narrowed to.
        let port = if ports.all(|port| port == first) { first } else { 0 };
        Ok(half_open(port)?.iter().any(|connection| self.begun.contains(&canonical(connection.endpoints()))))
    }
}

/// The addresses of a connection, with IPv4 addresses in place of mapped ones: a listener on `[::]` may have IPv4 clients.
fn canonical((local, remote): Endpoints) -> Endpoints {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    (canonical(local), canonical(remote))
}

//! Counts the open connections of processes.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use crate::kernel::sock_diag::{self, Connection, Endpoints, SockDiagError};
use crate::model::listener::{Address, Endpoint, SocketType};
use crate::process;

/// The open connections of this machine at one moment.
#[derive(Debug)]
pub(super) struct OpenConnections {
    inet: Vec<Connection>,
    unix: Vec<(u64, Address)>,
}

impl OpenConnections {
    /// Reads them. With very many connections this takes long.
    ///
    /// # Errors
    /// Where the kernel does not list its sockets.
    pub(super) fn read() -> Result<OpenConnections, SockDiagError> {
        Ok(OpenConnections { inet: sock_diag::connections(0)?, unix: sock_diag::unix_connections()? })
    }

    /// The inodes of those that were accepted from `endpoints`.
    pub(super) fn accepted_from(&self, endpoints: &[Endpoint]) -> HashSet<u64> {
        let mut by_port: HashMap<u16, Vec<&Endpoint>> = HashMap::new();
        let mut unix_addresses = HashSet::new();
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.socket_type == SocketType::Stream) {
            match &endpoint.address {
                Address::Inet(address) => by_port.entry(address.port()).or_default().push(endpoint),
                unix => drop(unix_addresses.insert(unix)),
            }
        }
        let served =
            |local: SocketAddr| by_port.get(&local.port()).is_some_and(|some| some.iter().any(|e| e.covers(local)));
        let inet = self.inet.iter().filter(|found| served(found.local)).map(|found| found.inode);
        let unix = self.unix.iter().filter(|(_, address)| unix_addresses.contains(address)).map(|(inode, _)| *inode);
        inet.chain(unix).collect()
    }

    /// The two ends of the TCP connections with these inodes, at most `limit` of them.
    pub(super) fn ends_of(&self, inodes: &HashSet<u64>, limit: usize) -> HashSet<Endpoints> {
        self.inet.iter().filter(|found| inodes.contains(&found.inode)).take(limit).map(Connection::endpoints).collect()
    }
}

/// How many of these TCP connections this side has closed within the last minute, before the other side did. `None` when the kernel does not
/// say.
pub(super) fn closed_from_here(ends: &HashSet<Endpoints>) -> Option<usize> {
    if ends.is_empty() {
        return Some(0);
    }
    // After the end of its process a connection has no inode.
    let closing = sock_diag::connections(0).ok()?.into_iter().filter(|found| found.inode == 0);
    let closed: HashSet<Endpoints> =
        closing.chain(sock_diag::time_wait(0).ok()?).map(|found| found.endpoints()).collect();
    Some(closed.intersection(ends).count())
}

/// Connections accepted from `endpoints` that these processes hold; `None` when the kernel does not say.
pub(crate) fn open_connections(processes: &[u32], endpoints: &[Endpoint]) -> Option<u64> {
    let sockets = process::sockets_of(processes);
    let accepted = OpenConnections::read().ok()?.accepted_from(endpoints);
    Some(accepted.iter().filter(|inode| sockets.contains_key(inode)).count() as u64)
}

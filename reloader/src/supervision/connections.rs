//! Counts the open connections of processes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use crate::kernel::sock_diag::{self, Connection, Endpoints, SockDiagError};
use crate::model::listener::{Address, Endpoint, SocketType};
use crate::process;

/// From this many ports on, one list of all connections costs less than a list for each port.
const MANY_PORTS: usize = 8;

/// The open connections of this machine at one moment.
#[derive(Debug)]
pub(super) struct OpenConnections {
    inet: Vec<Connection>,
    unix: Vec<(u64, Address)>,
}

impl OpenConnections {
    /// Reads those that may have been accepted from `endpoints`. With very many connections this takes long.
    ///
    /// # Errors
    /// Where the kernel does not list its sockets.
    pub(super) fn read(endpoints: &[Endpoint]) -> Result<OpenConnections, SockDiagError> {
        let mut inet = Vec::new();
        for port in asked(endpoints.iter().filter_map(Endpoint::port)) {
            inet.extend(sock_diag::connections(port)?);
        }
        let has_unix = endpoints.iter().any(|endpoint| endpoint.inet().is_none());
        let unix = if has_unix { sock_diag::unix_connections()? } else { Vec::new() };
        Ok(OpenConnections { inet, unix })
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
    let mut closed = HashSet::new();
    for port in asked(ends.iter().map(|(local, _)| local.port())) {
        let closing = sock_diag::connections(port).ok()?.into_iter().filter(|found| found.inode == 0);
        let all = closing.chain(sock_diag::time_wait(port).ok()?).map(|found| found.endpoints());
        closed.extend(all.filter(|found| ends.contains(found)));
    }
    Some(closed.len())
}

/// The ports for which the kernel is asked: each of them, or 0 for all if there are many.
fn asked(ports: impl Iterator<Item = u16>) -> BTreeSet<u16> {
    let ports: BTreeSet<u16> = ports.collect();
    if ports.len() <= MANY_PORTS { ports } else { BTreeSet::from([0]) }
}

/// Connections accepted from `endpoints` that these processes hold; `None` when the kernel does not say.
pub(crate) fn open_connections(processes: &[u32], endpoints: &[Endpoint]) -> Option<u64> {
    let sockets = process::sockets_of(processes);
    let accepted = OpenConnections::read(endpoints).ok()?.accepted_from(endpoints);
    Some(accepted.iter().filter(|inode| sockets.contains_key(inode)).count() as u64)
}

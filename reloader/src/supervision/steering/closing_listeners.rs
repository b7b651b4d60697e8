//! Finds handshakes and queued connections that are left on the old listeners of reuseport groups.

use std::collections::HashSet;

use crate::kernel::sock_diag::{self, Endpoints, SockDiagError};
use crate::model::listener::{Endpoint, Listener};

/// The old listeners, as the kernel's tables name them.
pub(crate) struct ClosingListeners {
    endpoints: Vec<Endpoint>,
    inodes: HashSet<u64>,
}

impl ClosingListeners {
    pub(crate) fn new<'a>(listeners: impl Iterator<Item = &'a Listener> + Clone) -> ClosingListeners {
        let endpoints = listeners.clone().map(|listener| listener.endpoint.clone()).collect();
        ClosingListeners { endpoints, inodes: listeners.map(|listener| listener.inode).collect() }
    }

    /// The handshakes that these listeners have begun. Without `late`, only those whose SYN-ACK was sent once.
    pub(crate) fn half_open(&self, late: bool) -> Result<HashSet<Endpoints>, SockDiagError> {
        let pending = sock_diag::half_open(0)?;
        let awaited = pending.iter().filter(|found| {
            (late || found.retransmits == 0) && self.endpoints.iter().any(|endpoint| endpoint.covers(found.local))
        });
        Ok(awaited.map(|found| found.endpoints()).collect())
    }

    /// Their ports.
    pub(crate) fn ports(&self) -> HashSet<u16> {
        self.endpoints.iter().filter_map(Endpoint::port).collect()
    }

    /// Connections in their accept queues.
    pub(crate) fn queued(&self) -> Result<u64, SockDiagError> {
        let all = sock_diag::tcp_listeners()?;
        Ok(all.iter().filter(|found| self.inodes.contains(&found.inode)).map(|found| u64::from(found.queued)).sum())
    }
}

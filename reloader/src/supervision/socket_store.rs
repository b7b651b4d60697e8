//! Keeps the sockets of one service: custody, and the share of it that the service manager keeps while no daemon runs.

use std::collections::HashMap;

use super::fd_store::FdStore;
use crate::process::SocketOwner;
use crate::sockets::custody::{Custody, Followed, KeptSocket};

/// The sockets that the daemon keeps for one service.
#[derive(Debug, Default)]
pub(crate) struct SocketStore {
    custody: Custody,
    /// The share of custody that the service manager keeps.
    fd_store: FdStore,
    /// The sockets that an earlier daemon has left with the service manager.
    received: Vec<KeptSocket>,
    /// The sockets in custody that were recorded as having O_NONBLOCK.
    recorded_nonblocking: Vec<u64>,
}

impl SocketStore {
    /// A store with the service manager's share, and with the sockets that an earlier daemon has left there.
    pub(crate) fn new(fd_store: FdStore, received: Vec<KeptSocket>) -> SocketStore {
        SocketStore { fd_store, received, ..SocketStore::default() }
    }

    /// The daemon's duplicates of the serving generation's listeners.
    pub(crate) fn custody(&self) -> &Custody {
        &self.custody
    }

    /// The sockets that an earlier daemon has left with the service manager, and that were not passed to a generation
    /// yet.
    pub(crate) fn received(&self) -> &[KeptSocket] {
        &self.received
    }

    /// Whether `nonblocking` differs from what is recorded.
    pub(super) fn has_other_flags(&self, nonblocking: &[u64]) -> bool {
        self.recorded_nonblocking != nonblocking
    }

    pub(super) fn note_recorded_flags(&mut self, nonblocking: Vec<u64>) {
        self.recorded_nonblocking = nonblocking;
    }

    pub(super) fn take_received(&mut self) -> Vec<KeptSocket> {
        std::mem::take(&mut self.received)
    }

    /// Replaces custody, and returns the earlier one.
    pub(super) fn replace(&mut self, custody: Custody) -> Custody {
        std::mem::replace(&mut self.custody, custody)
    }

    /// Closes the sockets that are not `wanted`.
    pub(super) fn retain(&mut self, wanted: impl FnMut(&KeptSocket) -> bool) {
        self.custody.retain(wanted);
    }

    /// Adds sockets from `others` to custody: those that `sockets` lists and custody lacks.
    pub(super) fn complete_from(&mut self, others: &[KeptSocket], sockets: &HashMap<u64, SocketOwner>) {
        self.custody.complete_from(others, sockets);
    }

    /// Closes all sockets in custody.
    pub(super) fn drop_custody(&mut self) {
        self.custody.drop_all();
    }

    /// Updates custody to the listeners that the serving generation owns now: see [`Custody::follow`].
    pub(super) fn follow(&mut self, sentinel: Option<u64>, tree: impl FnOnce() -> Vec<u32>) -> Followed {
        self.custody.follow(sentinel, tree)
    }

    /// Makes the service manager's share equal to custody, or empty if the server does not use it.
    pub(super) fn hand_to_service_manager(&mut self, stores: bool) {
        match stores {
            true => self.fd_store.follow(&self.custody),
            false => self.fd_store.follow(&Custody::default()),
        }
    }

    /// Waits until the service manager has closed the sockets that were taken out of its share.
    pub(super) async fn settle_service_manager(&mut self) {
        self.fd_store.settle().await;
    }
}

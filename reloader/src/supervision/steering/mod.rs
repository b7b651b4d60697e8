//! Keeps the steering program of one service between reloads, and detaches it once no handshake waits for it.

mod closing_listeners;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::gate::steer::{self, Steer, SteerError};
use crate::kernel::sock_diag::Endpoints;
use crate::model::listener::Address;
use crate::process::run_blocking;

pub(crate) use closing_listeners::ClosingListeners;

/// Handshakes of closed listeners whose client is slow, or whose ACK came while the accept queue was full. The program
/// migrates them as long as it is attached. It does nothing else by then.
pub(crate) struct PendingHandshakes {
    listeners: Arc<ClosingListeners>,
    /// The handshakes that every check so far has found; `None` before the first check.
    pending: Option<HashSet<Endpoints>>,
}

impl PendingHandshakes {
    /// The pending handshakes of `listeners`, which have closed a moment ago.
    pub(crate) fn new(listeners: Arc<ClosingListeners>) -> PendingHandshakes {
        PendingHandshakes { listeners, pending: None }
    }

    /// Whether a handshake may still be pending. True also if the kernel's tables cannot be read.
    fn wait(&mut self) -> bool {
        let Ok(now) = self.listeners.half_open(true) else { return true };
        let pending = self.pending.get_or_insert_with(|| now.clone());
        pending.retain(|ends| now.contains(ends));
        !pending.is_empty()
    }
}

/// The steering program of one service. It is loaded once, when something is to be steered, and lent to a reload.
#[derive(Default)]
pub(crate) struct Steering {
    program: Option<Steer>,
    pending: Option<PendingHandshakes>,
    /// A daemon that was killed has left the program on groups.
    is_left_behind: bool,
}

impl Steering {
    /// Whether a daemon that was killed has left the program on groups. Nothing else may be steered until [`take_over`](Self::take_over).
    pub(crate) fn is_left_behind(&self) -> bool {
        self.is_left_behind
    }

    /// Whether the program moves connections that are queued on a closed listener. False if no program is loaded.
    pub(crate) fn migrates(&self) -> bool {
        self.program.as_ref().is_some_and(Steer::migrates)
    }

    /// Whether the program is attached to a group at this address.
    pub(crate) fn is_attached_at(&self, address: &Address) -> bool {
        self.program.as_ref().is_some_and(|steer| steer.is_attached_at(address))
    }

    /// Notes whether a killed daemon has left the program on groups. Its files in `place` tell.
    pub(super) fn note_left_behind(&mut self, place: &Path) {
        self.is_left_behind = steer::is_left(place);
    }

    /// Loads the program if it is not loaded. Without the program, steering is impossible.
    pub(super) async fn load(&mut self) -> Result<(), SteerError> {
        if self.program.is_none() {
            self.program = Some(run_blocking(Steer::load).await?);
        }
        Ok(())
    }

    /// Lends the program to a reload, attached to no group. It no longer waits for pending handshakes.
    pub(super) async fn lend(&mut self) -> Result<Steer, SteerError> {
        self.pending = None;
        match self.program.take() {
            Some(mut steer) => steer.end(&[]).map(|()| steer),
            None => run_blocking(Steer::load).await,
        }
    }

    /// Takes the program back. It stays attached where handshakes are `pending`.
    pub(super) fn give_back(&mut self, steer: Steer, pending: Option<PendingHandshakes>) {
        self.program = Some(steer);
        self.pending = pending;
    }

    /// Steers the groups of the last reload to their present listeners for `lease`. False if the program is attached to
    /// no group, or if steering fails.
    pub(super) fn renew(&mut self, lease: Duration) -> bool {
        let attached = self.program.as_mut().filter(|steer| steer.is_in_force());
        attached.is_some_and(|steer| steer.renew(lease).is_ok())
    }

    /// Ends what [`renew`](Self::renew) began.
    pub(super) fn end_renewal(&mut self) {
        if let Some(Err(error)) = self.program.as_mut().map(|steer| steer.renew(Duration::ZERO)) {
            log::warn!("{error}");
        }
    }

    /// Whether the program stays attached for pending handshakes.
    pub(super) fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Detaches the program once no handshake waits for it. It is called about once a second.
    pub(super) fn detach_when_idle(&mut self) {
        if !self.pending.as_mut().is_some_and(PendingHandshakes::wait) {
            self.detach_now();
        }
    }

    /// Detaches the program, even if handshakes wait for it. The socket through which it is detached must not outlive its
    /// server.
    pub(super) fn detach_now(&mut self) {
        self.pending = None;
        if let Some(Err(error)) = self.program.as_mut().map(|steer| steer.end(&[])) {
            log::error!("{error}");
        }
    }

    /// Detaches the program that a killed daemon has left on groups.
    pub(super) fn take_over(&mut self, place: &Path) {
        self.is_left_behind = false;
        let groups = steer::clean_up(place);
        log::warn!("took the steering program of an earlier daemon off {groups} sockets");
    }
}

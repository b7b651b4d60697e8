//! What stays of steering after a reload: the program waits for handshakes that are late.

mod closing_listeners;

use std::collections::HashSet;
use std::sync::Arc;

use super::Supervisor;
use crate::kernel::sock_diag::Endpoints;
pub(crate) use closing_listeners::ClosingListeners;

/// Handshakes of closed listeners that wait for a slow client, or for one whose ACK came while the accept queue was full: they
/// are migrated as long as the program stands, which does nothing else any more.
pub(crate) struct PendingHandshakes {
    pub(crate) old: Arc<ClosingListeners>,
    pub(crate) pending: Option<HashSet<Endpoints>>,
}

/// Takes the program off once nothing waits for it any more. Due about once a second.
pub(crate) fn detach_when_idle(supervisor: &mut Supervisor) {
    if let Some(unsettled) = &mut supervisor.pending_handshakes {
        // What cannot be seen may still wait.
        let Ok(now) = unsettled.old.half_open(true) else { return };
        let pending = unsettled.pending.get_or_insert_with(|| now.clone());
        pending.retain(|ends| now.contains(ends));
        if !pending.is_empty() {
            return;
        }
    }
    detach_now(supervisor);
}

/// Takes the program off, whoever waits: the socket by which it is taken off must not outlive its server.
pub(crate) fn detach_now(supervisor: &mut Supervisor) {
    supervisor.pending_handshakes = None;
    if let Some(Err(error)) = supervisor.steer.as_mut().map(|steer| steer.end(&[])) {
        log::error!("{error}");
    }
}

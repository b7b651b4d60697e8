//! Keeps the requests for reloads that wait.

use std::time::Instant;

use super::events::PendingReply;
use super::protocol::Reply;

/// The requests that the next reload will answer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) pending: Vec<PendingReply>,
    /// Requests to stop: they go before reloads.
    pub(super) stops: Vec<PendingReply>,
    pub(super) last_reload: Option<Instant>,
    /// When the present wait for a resync began.
    pub(super) waits_since: Option<Instant>,
    /// The last text that the waiting clients were told, and the number of these clients.
    told: Option<(String, usize)>,
}

impl Queue {
    /// The wait is over: the next reload begins.
    pub(super) fn end_wait(&mut self) {
        (self.waits_since, self.told) = (None, None);
    }

    /// Answers all clients that wait for a reload which will not come.
    pub(super) fn refuse_all(&mut self) {
        for waiter in self.pending.drain(..) {
            waiter.send(Reply::Refused { message: "the daemon is ending".into(), exit: 69 });
        }
    }

    pub(super) fn tell_all(&mut self, service: &str, phase: String) {
        // A reload that was asked for by a signal shows in the log only.
        if self.told.as_ref().is_none_or(|(told, _)| *told != phase) {
            log::info!("{service}: {phase}, before it is reloaded");
        }
        let told = Some((phase.clone(), self.pending.len()));
        if self.told != told {
            self.pending.iter().for_each(|waiter| waiter.send(Reply::Progress { phase: phase.clone(), begun: false }));
            self.told = told;
        }
    }
}

//! Keeps the state of one attempt at a reload, from the request to the receipt.

use std::time::Instant;

use super::protection::Protection;
use crate::receipt::{Kind, Recorder};
use crate::supervision::{Generation, Supervisor};

/// What is asked of a reload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReloadRequest {
    /// Why a new generation is wanted.
    pub(crate) kind: Kind,
    /// When it was asked for.
    pub(crate) asked: Instant,
    /// The number of further requests that this reload answers.
    pub(crate) coalesced: u64,
    /// Start from the last-known-good configuration instead of the one on disk.
    pub(crate) use_known_good: bool,
}

impl ReloadRequest {
    /// A request that the daemon itself makes now.
    pub(crate) fn now(kind: Kind) -> ReloadRequest {
        ReloadRequest { kind, asked: Instant::now(), coalesced: 0, use_known_good: false }
    }
}

/// One reload under way: its service, its receipt, what protects its listeners, and where its progress is told. The steps are its methods.
pub(crate) struct Attempt<'a> {
    pub(super) supervisor: &'a mut Supervisor,
    pub(super) request: ReloadRequest,
    pub(super) recorder: Recorder,
    pub(super) protection: Protection,
    progress: &'a dyn Fn(&str),
}

impl<'a> Attempt<'a> {
    /// Begins an attempt. `progress` gets a few words about each step.
    pub(super) fn new(
        supervisor: &'a mut Supervisor,
        request: ReloadRequest,
        progress: &'a dyn Fn(&str),
    ) -> Attempt<'a> {
        let ReloadRequest { kind, asked, coalesced, .. } = request;
        let old = supervisor.serving().map(Generation::id);
        let recorder = Recorder::begin(Some(supervisor.name()), kind, asked, coalesced, old);
        Attempt { supervisor, request, recorder, protection: Protection::default(), progress }
    }

    /// Tells what happens now.
    pub(super) fn tell(&self, phase: &str) {
        (self.progress)(phase);
    }

    /// Whether the new generation must serve, because the earlier one has ended. An unproven listener, or one shared with a foreign server, is
    /// better than none.
    pub(super) fn must_serve(&self) -> bool {
        self.request.kind != Kind::Start && !self.supervisor.is_served()
    }

    /// Lifts the protection of the old listeners, and writes into the receipt what it proves.
    pub(super) async fn release(&mut self) {
        let protection = std::mem::take(&mut self.protection);
        protection.release(self.supervisor, &mut self.recorder, self.progress).await;
    }
}

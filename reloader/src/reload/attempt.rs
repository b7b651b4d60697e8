//! One attempt at a reload: what it works on, from the request to the receipt.

use std::time::Instant;

use super::protection::Protection;
use super::steps::count::Counting;
use super::{companion, overlap, replace};
use crate::receipt::{Failure, Kind, Receipt, Recorder};
use crate::server::Prepared;
use crate::supervision::{Generation, Supervisor};

/// What is asked of a reload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReloadRequest {
    /// Why a new generation is wanted.
    pub(crate) kind: Kind,
    /// When it was asked for.
    pub(crate) asked: Instant,
    /// Further requests that it answers too.
    pub(crate) coalesced: u64,
    /// Start from the last-known-good configuration instead of the one on disk.
    pub(crate) use_known_good: bool,
}

impl ReloadRequest {
    /// One that is asked for now, by the daemon itself.
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
    /// Begins one. `progress` is told what happens, in a few words.
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

    /// What served before has ended, so nothing else serves: better unproven, or shared with a foreign server, than nothing.
    pub(super) fn must_serve(&self) -> bool {
        self.request.kind != Kind::Start && !self.supervisor.is_served()
    }

    /// Lifts the protection of the old listeners, and writes into the receipt what it proves.
    pub(super) async fn release(&mut self) {
        let protection = std::mem::take(&mut self.protection);
        protection.release(self.supervisor, &mut self.recorder, self.progress).await;
    }
}

/// Runs a reload to its receipt. Whatever fails, the generation that served before goes on serving; where it had to make room first, the
/// last-known-good one serves, or nothing (`replace`).
pub(crate) async fn run(supervisor: &mut Supervisor, request: ReloadRequest, progress: &dyn Fn(&str)) -> Receipt {
    let mut attempt = Attempt::new(supervisor, request, progress);
    let counting = Counting::begin(&mut attempt).await;
    let outcome = attempt.carry_out().await;
    if let Err(failure) = &outcome {
        attempt.give_up(failure).await;
    }
    // What was begun under protection is given up under it.
    attempt.release().await;
    counting.end(&mut attempt);
    let nothing_serves = outcome.is_err() && !attempt.supervisor.serves();
    attempt.recorder.receipt().nothing_serves = nothing_serves;
    attempt.supervisor.publish();
    attempt.recorder.finish(outcome)
}

impl Attempt<'_> {
    /// Chooses the strategy.
    async fn carry_out(&mut self) -> Result<(), Failure> {
        if !self.supervisor.server().owns_lifecycle() {
            return companion::run(self).await;
        }
        let prepared = self.prepare().await?;
        self.look_again().await;
        self.refuse_unproven_plan(&prepared.capabilities)?;
        match replace::is_needed(self.supervisor, &prepared) {
            true => replace::run(self, &prepared).await,
            false => overlap::run(self, &prepared).await,
        }
    }

    async fn prepare(&mut self) -> Result<Prepared, Failure> {
        let prepared = self.read_configuration(self.request.use_known_good).await?;
        match prepared.ends_by_reload.clone() {
            Some(sentence) if self.supervisor.is_served() => {
                return Err(Failure::new(crate::receipt::ReasonCode::ReloadLoses, sentence));
            }
            // Nothing runs that it could end.
            sentence => self.recorder.receipt().notes.extend(sentence),
        }
        Ok(prepared)
    }

    /// Nothing goes to the new generation any more that could go to the old one; then the new one drains.
    async fn give_up(&mut self, failure: &Failure) {
        self.supervisor.note_failed_start(failure.ends_custody);
        let timeout = self.supervisor.config().reload.drain_timeout;
        let heartbeat = self.supervisor.heartbeat();
        heartbeat.during(self.protection.roll_back(timeout)).await;
        self.abandon(failure.ends_custody).await;
    }
}

//! Runs one reload to its receipt: chooses the strategy, and gives up what has failed.

use super::attempt::{Attempt, ReloadRequest};
use super::steps::count::Counting;
use super::{companion, overlap, replace};
use crate::receipt::{Failure, ReasonCode, Receipt};
use crate::server::Prepared;
use crate::supervision::Supervisor;

/// Runs a reload to its receipt. Whatever fails, the generation that served before goes on serving; where it had to make room first, the
/// last-known-good one serves, or nothing (`replace`).
pub(crate) async fn run(supervisor: &mut Supervisor, request: ReloadRequest, progress: &dyn Fn(&str)) -> Receipt {
    let mut attempt = Attempt::new(supervisor, request, progress);
    // Nothing competes with a reload, and it may change what is tried.
    let is_trial_due = attempt.supervisor.interrupt_trial();
    let counting = Counting::begin(&mut attempt).await;
    let outcome = attempt.carry_out().await;
    if let Err(failure) = &outcome {
        attempt.give_up(failure).await;
    }
    attempt.leave_control_group(outcome.is_ok()).await;
    // What was begun under protection is given up under it.
    attempt.release().await;
    counting.end(&mut attempt);
    if outcome.is_ok() {
        attempt.probe_connect().await;
    }
    attempt.account_for_the_old().await;
    attempt.record_configuration().await;
    let are_copies_new = outcome.is_ok() && attempt.keep_as_known_good().await;
    // What made a reload fail may be outside of the copies of the last-known-good configuration.
    if (is_trial_due || are_copies_new || outcome.is_err()) && attempt.supervisor.serves() {
        attempt.supervisor.try_last_known_good();
    }
    let nothing_serves = outcome.is_err() && !attempt.supervisor.serves();
    attempt.recorder.receipt().nothing_serves = nothing_serves;
    attempt.supervisor.write_pid_file().await;
    attempt.supervisor.mend_paths().await;
    // What the reload has healed is no warning any more.
    attempt.supervisor.look_at_reachability().await;
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
        self.supervisor.look_at_reachability().await;
        self.refuse_unproven_plan(&prepared.capabilities)?;
        let needs_room = replace::is_needed(self.supervisor, &prepared);
        let is_shared = self.share_ports(&prepared, needs_room).await?;
        match needs_room && !is_shared {
            true => replace::run(self, &prepared).await,
            false => overlap::run(self, &prepared).await,
        }
    }

    async fn prepare(&mut self) -> Result<Prepared, Failure> {
        self.supervisor.refresh_command_line().await?;
        let prepared = self.read_configuration(self.request.use_known_good).await?;
        self.begin_digests(&prepared);
        match prepared.ends_by_reload.clone() {
            Some(sentence) if self.supervisor.is_served() => {
                return Err(Failure::new(ReasonCode::ReloadLoses, sentence));
            }
            // Nothing runs that it could end.
            sentence => self.recorder.receipt().notes.extend(sentence),
        }
        Ok(prepared)
    }

    /// Writes into the receipt what was cut, if the old generation has ended already and did not finish its connections.
    async fn account_for_the_old(&mut self) {
        let Some(old) = self.recorder.receipt().old else { return };
        if let Some((sentence, cut)) = self.supervisor.take_cut_of(old.generation).await {
            self.recorder.receipt().lost.cut = cut;
            sentence.into_iter().for_each(|sentence| self.recorder.note(sentence));
        }
    }

    /// Nothing goes to the new generation any more that could go to the old one; then the new one drains.
    async fn give_up(&mut self, failure: &Failure) {
        self.supervisor.note_failed_start(failure.ends_custody);
        let timeout = self.supervisor.config().reload.drain_timeout;
        let heartbeat = self.supervisor.heartbeat();
        heartbeat.during(self.protection.roll_back(timeout)).await;
        self.abandon(failure.ends_custody).await;
        self.end_strays().await;
    }
}

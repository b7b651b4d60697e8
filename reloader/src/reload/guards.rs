//! What guards the listeners whose socket changes: they are steered where that is possible, and held where it is not.

use std::collections::HashSet;

use super::confirm::Verdict;
use super::held::{self, Guarded};
use super::recorder::Recorder;
use super::steered::{self, Steered};
use crate::config::Strategy;
use crate::haproxy::inspect::Inspection;
use crate::listener::Owned;
use crate::supervision::Supervisor;

/// The guards of one reload.
#[derive(Default)]
pub(crate) struct Guards {
    pub(super) steered: Option<Steered>,
    pub(super) held: Option<Guarded>,
}

impl Guards {
    /// Guards the old sockets that the new generation did not take over, until they are closed, and waits until those that need it
    /// are drained.
    pub(crate) async fn put_up(
        supervisor: &mut Supervisor,
        inspection: &Inspection,
        old: &[Owned],
        verdicts: &[Verdict],
        recorder: &mut Recorder,
        tell: &dyn Fn(&str),
    ) -> Guards {
        let strategy = supervisor.config.reload.strategy;
        let mut at_risk = held::at_risk(verdicts);
        let mut guards = Guards::default();
        if !supervisor.is_served() || strategy == Strategy::FdPass || at_risk.is_empty() {
            return guards;
        }
        if matches!(strategy, Strategy::Auto | Strategy::Steer) {
            (guards.steered, at_risk) = steered::begin(supervisor, at_risk, &inspection.custody, recorder);
        }
        let mut ours: HashSet<u64> = old.iter().map(|owned| owned.listener.inode).collect();
        ours.extend(inspection.owned.iter().map(|owned| owned.listener.inode));
        guards.held = held::guard(supervisor, at_risk, &ours, recorder).await;
        if guards.steered.is_none() && guards.held.is_none() {
            return guards;
        }
        recorder.phase(|phases| &mut phases.guard);
        tell("draining old queues");
        if let Some(held) = &mut guards.held {
            held.drain().await;
        }
        if let Some(steered) = &mut guards.steered {
            steered.drain().await;
        }
        recorder.phase(|phases| &mut phases.drain);
        guards
    }

    /// Whether the old listener with this inode is guarded.
    pub(crate) fn cover(&self, inode: Option<u64>) -> bool {
        self.steered.as_ref().is_some_and(|steered| steered.covers(inode))
            || self.held.as_ref().is_some_and(|held| held.covers(inode))
    }

    /// What stands against a proof by now.
    pub(crate) fn doubts(&self) -> Option<String> {
        let steered = self.steered.as_ref().and_then(Steered::doubts);
        steered.or_else(|| self.held.as_ref().and_then(Guarded::doubts))
    }

    /// The old generation was told to close its listeners; `closed` where it was seen to have done so.
    pub(crate) async fn follow_the_close(&mut self, closed: bool) {
        if !closed {
            self.held.iter_mut().for_each(Guarded::doubt_the_close);
            self.steered.iter_mut().for_each(Steered::doubt_the_close);
        }
        if let Some(steered) = &mut self.steered {
            steered.settle().await;
        }
    }

    /// The new generation is given up: nothing goes to it any more that could go to the old one.
    pub(crate) fn turn_back(&mut self) {
        self.steered.iter_mut().for_each(Steered::turn_back);
    }

    /// Takes them away, and writes into the receipt what they prove.
    pub(crate) async fn release(self, supervisor: &mut Supervisor, recorder: &mut Recorder, tell: &dyn Fn(&str)) {
        if self.steered.is_none() && self.held.is_none() {
            return;
        }
        if let Some(steered) = self.steered {
            steered.release(supervisor, recorder);
        }
        if let Some(held) = self.held {
            tell("releasing what was held");
            held.release(recorder).await;
        }
        recorder.phase(|phases| &mut phases.release);
    }
}

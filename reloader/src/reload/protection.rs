//! What guards the listeners whose socket changes: TCP is steered where that is possible, and held where it is not; a unix path is
//! drained.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;

use super::held::{self, HeldListeners};
use super::replaced::{self, Links, ReplacedPath};
use super::reserved::ReservedGroups;
use super::steered::{self, SteeredListeners};
use super::verdict::Verdict;
use crate::config::Strategy;
use crate::model::listener::Owned;
use crate::receipt::Recorder;
use crate::server::Prepared;
use crate::sockets::inspection::Inspection;
use crate::supervision::Supervisor;

/// The guards of one reload.
#[derive(Default)]
pub(crate) struct Protection {
    pub(super) steered: Option<SteeredListeners>,
    pub(super) held: Option<HeldListeners>,
    replaced: Vec<ReplacedPath>,
    links: Links,
    reserved: ReservedGroups,
}

impl Protection {
    /// Before the new generation is started: what it may rename over can be given back.
    pub(crate) fn link_paths(&mut self, supervisor: &Supervisor, recorder: &mut Recorder) {
        if supervisor.is_served() {
            self.links = Links::make(&supervisor.present_listeners(), recorder);
        }
    }

    /// Before the new generation is started: what it binds anew gets no connection.
    pub(crate) fn reserve(&mut self, supervisor: &mut Supervisor, prepared: &Prepared) {
        self.reserved = ReservedGroups::begin(supervisor, prepared);
    }

    /// Guards the old sockets that the new generation did not take over, until they are closed, and waits until those that need it
    /// are drained.
    pub(crate) async fn install(
        &mut self,
        supervisor: &mut Supervisor,
        inspection: &Inspection,
        old: &[Owned],
        verdicts: &[Verdict],
        recorder: &mut Recorder,
        tell: &dyn Fn(&str),
    ) {
        let strategy = supervisor.config.reload.strategy;
        if !supervisor.is_served() || strategy == Strategy::FdPass {
            return;
        }
        let mut at_risk = held::at_risk(verdicts);
        self.replaced = replaced::among(verdicts);
        let patience = supervisor.config.reload.drain_timeout;
        join_all(self.replaced.iter_mut().map(|replaced| replaced.drain(patience))).await;
        if matches!(strategy, Strategy::Auto | Strategy::Steer) {
            (self.steered, at_risk) =
                steered::begin(supervisor, at_risk, &inspection.custody, &mut self.reserved, recorder);
        }
        let mut ours: HashSet<u64> = old.iter().map(|owned| owned.listener.inode).collect();
        ours.extend(inspection.owned.iter().map(|owned| owned.listener.inode));
        self.held = held::guard(supervisor, at_risk, &ours, recorder).await;
        if self.steered.is_none() && self.held.is_none() {
            return;
        }
        recorder.phase(|phases| &mut phases.guard);
        tell("draining old queues");
        if let Some(held) = &mut self.held {
            held.drain(false).await;
        }
        if let Some(steered) = &mut self.steered {
            steered.drain().await;
        }
        recorder.phase(|phases| &mut phases.drain);
    }

    /// The new generation is about to take over: it gets its connections. Before, what may still give it up would cost them; later, no
    /// socket is left by which a group could be freed.
    pub(crate) fn open_to_new_generation(&mut self, supervisor: &mut Supervisor) {
        self.reserved.end(supervisor);
    }

    /// Whether the old listener with this inode is guarded. A unix path that is bound anew never is: its drain is no proof.
    pub(crate) fn protects(&self, inode: Option<u64>) -> bool {
        self.steered.as_ref().is_some_and(|steered| steered.covers(inode))
            || self.held.as_ref().is_some_and(|held| held.covers(inode))
    }

    /// What stands against a proof by now.
    pub(crate) fn doubts(&self) -> Option<String> {
        let steered = self.steered.as_ref().and_then(SteeredListeners::doubts);
        let held = || self.held.as_ref().and_then(HeldListeners::doubts);
        steered.or_else(held)
    }

    /// The old generation was told to close its listeners; `closed` where it was seen to have done so.
    pub(crate) async fn after_close(&mut self, closed: bool) {
        if !closed {
            self.held.iter_mut().for_each(HeldListeners::doubt_the_close);
            self.steered.iter_mut().for_each(SteeredListeners::doubt_the_close);
        }
        if let Some(steered) = &mut self.steered {
            steered.settle().await;
        }
    }

    /// The new generation is given up: nothing goes to it any more that could go to the old one.
    pub(crate) async fn roll_back(&mut self, patience: Duration) {
        self.links.put_back();
        if let Some(steered) = &mut self.steered {
            steered.roll_back().await;
        }
        join_all(self.replaced.iter().map(|replaced| replaced.drain_back(patience))).await;
    }

    /// Takes them away, and writes into the receipt what they prove.
    pub(crate) async fn release(mut self, supervisor: &mut Supervisor, recorder: &mut Recorder, tell: &dyn Fn(&str)) {
        self.reserved.end(supervisor);
        self.replaced.into_iter().for_each(|replaced| replaced.record(recorder));
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

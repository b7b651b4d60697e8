//! Protects the listeners whose socket changes, before and after the new generation starts.

use std::collections::HashSet;

use futures_util::future::join_all;

use crate::config::Strategy;
use crate::model::listener::{Listener, Owned};
use crate::reload::attempt::Attempt;
use crate::reload::protection::held::{self, HeldListeners};
use crate::reload::protection::replaced;
use crate::reload::protection::reserved::ReservedGroups;
use crate::reload::protection::steered::groups::{by_endpoint, successors};
use crate::reload::protection::steered::loan::Loan;
use crate::reload::verdict::Verdict;
use crate::server::Prepared;
use crate::sockets::custody::Custody;
use crate::sockets::inspection::Inspection;
use crate::supervision::PathLinks;

impl Attempt<'_> {
    /// Prepares for the start of the new generation. Paths that it may rename over can then be given back, and sockets that it binds again get
    /// no connections.
    pub(in crate::reload) fn protect_before_start(&mut self, prepared: &Prepared) {
        if self.supervisor.is_served() {
            let (links, notes) = PathLinks::new(&self.supervisor.present_listeners());
            self.protection.links = links;
            notes.into_iter().for_each(|note| self.recorder.note(note));
        }
        self.protection.reserved = ReservedGroups::begin(self.supervisor, prepared);
    }

    /// Protects the old sockets that the new generation did not take over, until they are closed, and waits until those that need it are
    /// drained.
    pub(in crate::reload) async fn protect(&mut self, inspection: &Inspection, old: &[Owned], verdicts: &[Verdict]) {
        let strategy = self.supervisor.config().reload.strategy;
        if !self.supervisor.is_served() || strategy == Strategy::FdPass {
            return;
        }
        let mut at_risk = held::at_risk(verdicts);
        self.protection.replaced = replaced::among(verdicts);
        let timeout = self.supervisor.config().reload.drain_timeout;
        let heartbeat = self.supervisor.heartbeat();
        let drains = join_all(self.protection.replaced.iter_mut().map(|replaced| replaced.drain(timeout)));
        heartbeat.during(drains).await;
        if matches!(strategy, Strategy::Auto | Strategy::Steer) {
            at_risk = self.steer(at_risk, &inspection.custody).await;
        }
        let mut ours: HashSet<u64> = old.iter().map(|owned| owned.listener.inode).collect();
        ours.extend(inspection.owned.iter().map(|owned| owned.listener.inode));
        self.protection.held = HeldListeners::begin(self.supervisor, at_risk, &ours, &mut self.recorder).await;
        if self.protection.steered.is_none() && self.protection.held.is_none() {
            return;
        }
        self.recorder.phase(|phases| &mut phases.guard);
        self.tell("draining old queues");
        if let Some(held) = &mut self.protection.held {
            heartbeat.during(held.drain(!self.supervisor.server().finishes_what_it_accepted())).await;
        }
        if let Some(steered) = &mut self.protection.steered {
            if self.protection.held.is_some() {
                steered.wait_for_no_deferral();
            }
            let serving = self.supervisor.serving().map(|serving| serving.process.pid());
            let unfinished = serving.filter(|_| !self.supervisor.server().finishes_what_it_accepted());
            let given_up = heartbeat.during(steered.drain(unfinished)).await;
            given_up.into_iter().for_each(|sentence| self.recorder.note(sentence));
        }
        self.recorder.phase(|phases| &mut phases.drain);
    }

    /// Steers away from the `old` listeners that have successors in their group, and returns the others, such as those by MPTCP. A group has one
    /// program, so reserved groups are free from here on, unless nothing can be steered.
    pub(in crate::reload) async fn steer(&mut self, old: Vec<Listener>, new: &Custody) -> Vec<Listener> {
        let successors = successors(new);
        let (candidates, mut rest): (Vec<_>, Vec<_>) = old
            .into_iter()
            .partition(|listener| successors.contains_key(&listener.endpoint) && !listener.endpoint.mptcp);
        if candidates.is_empty() {
            self.supervisor.detach_steering_now();
            return rest;
        }
        let mut loan = match Loan::take(self.supervisor, new).await {
            Ok(loan) => loan,
            Err(error) => {
                self.recorder.note(error);
                rest.extend(candidates);
                return rest;
            }
        };
        self.protection.reserved.end(loan.supervisor());
        for (endpoint, group) in by_endpoint(candidates) {
            if let Err(error) = loan.add(&endpoint, &group, &successors[&endpoint]) {
                self.recorder.note(error);
                rest.extend(group);
            }
        }
        self.protection.steered = loan.into_steered(&mut self.recorder);
        rest
    }
}

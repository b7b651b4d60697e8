//! The holder: what its thread does, from before a gate is armed until everything of it is gone.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::clean_up::clean_up_after_the_dead;
use super::delivery_lock::only_one_delivers;
use super::guard::{Guard, Ports};
use super::handle::{EndReason, HoldOutcome, HoldRequest, HoldStarted};
use super::health::HoldHealth;
use super::own_entry::OwnEntry;
use super::registry::HoldRegistry;
use super::{Backend, Gate, HoldError, HoldStats, LEASE, Partial, Spec, prepare};
use crate::kernel::clock::timespec;
use crate::kernel::monitor::Monitor;

/// How often the lease is renewed: a renewal may come late by four times that.
pub(super) const RENEWAL_INTERVAL: Duration = Duration::from_millis(LEASE.as_millis() as u64 / 5);

mod guarded;

pub(super) struct HoldWorker {
    // Dropped in this order: the gate may be restored by a guard only while the claim stands.
    gate: Box<dyn Gate>,
    guard: Option<Guard>,
    records: HoldRegistry,
    claim: OwnEntry,
    monitor: Monitor,
    pulse: Arc<HoldHealth>,
    backend: Backend,
    wanted: HoldRequest,
    ports: File,
    leaving: OwnedFd,
    ends: Instant,
    replacements: u32,
    lifted: Option<HoldStats>,
    trouble: Option<String>,
    notes: Vec<String>,
}

impl HoldWorker {
    /// Everything is in place and guarded before the first SYN is parked. `leaving` is the eventfd that says that the old server leaves.
    pub(super) fn begin(wanted: HoldRequest, leaving: OwnedFd) -> Result<(HoldWorker, HoldStarted), HoldError> {
        let records = HoldRegistry::new(&wanted.runtime_dir);
        clean_up_after_the_dead(&records);
        let claim = records.claim(&wanted.targets, wanted.netns_path.as_deref())?;
        let spec = Spec {
            id: claim.id(),
            targets: wanted.targets.clone(),
            exceptions: wanted.exceptions.clone(),
            capacity: wanted.capacity,
        };
        let monitor = Monitor::begin()?;
        // Before anything is put anywhere: whenever this process dies, somebody takes it away again.
        let guard = Guard::start(&wanted.program, &wanted.inheritance);
        let (targets, exceptions, old) = (wanted.targets.clone(), wanted.exceptions.clone(), wanted.old.clone());
        let ports = Ports { targets, exceptions, old }.to_file()?;
        let guard = guard.and_then(|guard| guard.in_charge_of(&claim, &ports, &leaving, &mut || ()));
        let guard = guard.map_err(HoldError::Guard)?;
        // What one hold takes for unused, another may be about to use.
        let lock = records.lock()?;
        let prepared = prepare(&spec, wanted.backend);
        drop(lock);
        let (backend, gate, note) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                guard.dismiss();
                return Err(error);
            }
        };
        let mut holder = HoldWorker {
            gate,
            guard: None,
            records,
            claim,
            monitor,
            pulse: Arc::new(HoldHealth::new()),
            backend,
            ends: Instant::now() + wanted.max,
            wanted,
            ports,
            leaving,
            replacements: 0,
            lifted: None,
            trouble: None,
            notes: note.into_iter().collect(),
        };
        let armed = holder.entrust(guard, &mut |_| ()).map_err(HoldError::Guard).and_then(|()| holder.gate.arm());
        if let Err(error) = armed {
            holder.take_down();
            return Err(error);
        }
        holder.pulse.heartbeat();
        holder.look_for_doubt();
        let at = Instant::now();
        holder.ends = at + holder.wanted.max;
        let armed = HoldStarted { backend, at, notes: std::mem::take(&mut holder.notes) };
        Ok((holder, armed))
    }

    pub(super) fn pulse(&self) -> Arc<HoldHealth> {
        Arc::clone(&self.pulse)
    }

    pub(super) fn hold(mut self, orders: &OwnedFd) -> HoldOutcome {
        let why = self.until_ended(orders);
        why.doubt().into_iter().for_each(|doubt| self.pulse.note(doubt));
        let (figures, at) = self.deliver();
        self.take_down();
        let figures = self.lifted.map_or(figures, |lifted| together(self.backend, figures, lifted));
        HoldOutcome { figures, at, why, trouble: self.trouble.take(), notes: std::mem::take(&mut self.notes) }
    }

    fn until_ended(&mut self, orders: &OwnedFd) -> EndReason {
        let mut renewal = Instant::now();
        loop {
            let now = Instant::now();
            if now >= self.ends {
                return EndReason::Max;
            }
            if now >= renewal {
                if let Err(error) = self.gate.renew() {
                    self.doubt(format!("the hold ended early: {error}"));
                    return EndReason::Failed;
                }
                self.look_for_doubt();
                alive(self.guard.as_ref(), &self.pulse);
                renewal = now + RENEWAL_INTERVAL;
            }
            let (ordered, changed, guard) = self.wait(orders, renewal.min(self.ends) - now);
            if ordered {
                return EndReason::Asked;
            }
            if changed {
                self.follow();
            }
            if guard && self.hear_guard() {
                return EndReason::Lifted;
            }
        }
    }

    /// Waits for an order, a change of devices, or word of the guard.
    fn wait(&self, orders: &OwnedFd, time: Duration) -> (bool, bool, bool) {
        let mut watched = vec![
            PollFd::from_borrowed_fd(orders.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.monitor.as_fd(), PollFlags::IN),
        ];
        watched.extend(self.guard.as_ref().map(|guard| PollFd::from_borrowed_fd(guard.as_fd(), PollFlags::IN)));
        if self.guard.as_ref().is_some_and(Guard::has_more_to_say) {
            return (false, false, true);
        }
        if poll(&mut watched, Some(&timespec(time))).is_err() {
            return (false, false, false);
        }
        let ready = |index: usize| watched.get(index).is_some_and(|fd: &PollFd<'_>| !fd.revents().is_empty());
        (ready(0), ready(1), ready(2))
    }

    fn follow(&mut self) {
        self.monitor.take();
        // Whoever has the lock may have been stopped, and the lease waits for nobody.
        let lock = self.records.lock_within(RENEWAL_INTERVAL);
        let (guard, pulse) = (self.guard.as_ref(), &self.pulse);
        let Partial { done: changed, trouble } = self.gate.follow(&mut || alive(guard, pulse));
        drop(lock);
        if changed {
            self.entrust_again();
        }
        if let Some(error) = trouble {
            self.doubt(error.to_string());
        }
        self.look_for_doubt();
    }

    fn look_for_doubt(&mut self) {
        match self.gate.doubt() {
            Some(doubt) if !self.notes.contains(&doubt) && self.trouble.as_ref() != Some(&doubt) => self.doubt(doubt),
            _ => {}
        }
    }

    fn deliver(&mut self) -> (HoldStats, Instant) {
        // The guard delivers when it is asked to by `reloader release`; never both at once.
        self.guard.iter().for_each(Guard::delivers);
        let alone = only_one_delivers(self.claim.path());
        let Partial { done, trouble } = self.gate.deliver();
        drop(alone);
        let at = Instant::now();
        if let Some(error) = trouble {
            self.doubt(error.to_string());
        }
        (done, at)
    }

    fn take_down(&mut self) {
        let mut lifted = None;
        if let Some(guard) = &mut self.guard
            && let Err(error) = guard.delivered()
        {
            log::debug!("the guard is gone: {error}");
            lifted = guard.lifted();
        }
        // Asked to at the same moment, it may have delivered what was not left for us.
        if let Some((figures, trouble)) = lifted {
            self.was_lifted(figures, trouble);
        }
        let gate = &mut self.gate;
        if let Err(error) = self.records.alone(|| gate.remove()) {
            self.note(error.to_string());
        }
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
    }

    /// Notes what leaves the hold without a proof.
    fn doubt(&mut self, sentence: String) {
        self.trouble.get_or_insert_with(|| sentence.clone());
        self.pulse.note(&sentence);
        self.note(sentence);
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// The holder is there in time, for all who wait for word of it.
fn alive(guard: Option<&Guard>, pulse: &HoldHealth) {
    guard.into_iter().for_each(Guard::reassure);
    pulse.heartbeat();
}

/// The counts are in maps, or qdiscs, that both have. How many it has delivered itself, each eBPF gate knows alone.
fn together(backend: Backend, ours: HoldStats, guards: HoldStats) -> HoldStats {
    let both = |ours: u64, guards: u64| match backend {
        Backend::Ebpf => ours + guards,
        Backend::Qdisc => ours.max(guards),
    };
    HoldStats {
        held: ours.held.max(guards.held),
        released: both(ours.released, guards.released),
        device_gone: both(ours.device_gone, guards.device_gone),
        dropped: ours.dropped.max(guards.dropped),
        lease_lapsed: ours.lease_lapsed.max(guards.lease_lapsed),
        longest: ours.longest.max(guards.longest),
    }
}

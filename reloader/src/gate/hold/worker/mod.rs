//! The worker: the holder's thread, from before the gate is armed until everything of it is gone.

mod guarding;
mod start;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::delivery_lock::lock_delivery;
use super::guard::Guard;
use super::health::HoldHealth;
use super::own_entry::OwnEntry;
use super::registry::HoldRegistry;
use super::request::{EndReason, HoldOutcome, HoldRequest};
use super::timing::RENEWAL_INTERVAL;
use crate::gate::contract::{Backend, Gate, GateError, HoldStats, Partial};
use crate::kernel::clock::timespec;
use crate::kernel::monitor::Monitor;

/// Holds SYNs by one gate.
pub(super) struct HoldWorker {
    // Dropped in this order: a guard may restore the gate only while the entry exists.
    gate: Box<dyn Gate>,
    guard: Option<Guard>,
    registry: HoldRegistry,
    entry: OwnEntry,
    monitor: Monitor,
    health: Arc<HoldHealth>,
    backend: Backend,
    request: HoldRequest,
    /// What each guard gets: the ports, and the eventfd that says that the old server leaves.
    ports: File,
    old_leaving: OwnedFd,
    /// When the longest time of the hold is over.
    ends: Instant,
    /// How many guards have been replaced.
    replacements: u32,
    /// What the guard did when it released by itself.
    lifted: Option<HoldStats>,
    doubt: Option<String>,
    notes: Vec<String>,
}

/// What ended a wait.
struct Events {
    stopped: bool,
    devices_changed: bool,
    guard_spoke: bool,
}

impl HoldWorker {
    pub(super) fn health(&self) -> Arc<HoldHealth> {
        Arc::clone(&self.health)
    }

    /// Holds until `stop` is readable or the hold ends by itself, then releases.
    pub(super) fn run(mut self, stop: &OwnedFd) -> HoldOutcome {
        let reason = self.hold(stop);
        reason.doubt().into_iter().for_each(|doubt| self.health.note(doubt));
        let (stats, at) = self.deliver();
        if let Some(error) = self.take_down() {
            self.note(error.to_string());
        }
        let stats = self.lifted.map_or(stats, |lifted| combined(self.backend, stats, lifted));
        HoldOutcome { stats, at, reason, doubt: self.doubt.take(), notes: std::mem::take(&mut self.notes) }
    }

    fn hold(&mut self, stop: &OwnedFd) -> EndReason {
        let mut renewal = Instant::now();
        loop {
            let now = Instant::now();
            if now >= self.ends {
                return EndReason::Max;
            }
            if now >= renewal {
                if let Err(error) = self.gate.renew() {
                    self.note_doubt(format!("the hold ended early: {error}"));
                    return EndReason::Failed;
                }
                self.check_gate();
                show_life(self.guard.as_ref(), &self.health);
                renewal = now + RENEWAL_INTERVAL;
            }
            let events = self.wait(stop, renewal.min(self.ends) - now);
            if events.stopped {
                return EndReason::Asked;
            }
            if events.devices_changed {
                self.follow_devices();
            }
            if events.guard_spoke && self.hear_guard() {
                return EndReason::Lifted;
            }
        }
    }

    /// Waits for the order to stop, a change of devices or addresses, or a message of the guard.
    fn wait(&self, stop: &OwnedFd, time: Duration) -> Events {
        let mut watched = vec![
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.monitor.as_fd(), PollFlags::IN),
        ];
        watched.extend(self.guard.as_ref().map(|guard| PollFd::from_borrowed_fd(guard.as_fd(), PollFlags::IN)));
        if self.guard.as_ref().is_some_and(Guard::has_unread) {
            return Events { stopped: false, devices_changed: false, guard_spoke: true };
        }
        let polled = poll(&mut watched, Some(&timespec(time))).is_ok();
        let ready = |index: usize| polled && watched.get(index).is_some_and(|fd: &PollFd<'_>| !fd.revents().is_empty());
        Events { stopped: ready(0), devices_changed: ready(1), guard_spoke: ready(2) }
    }

    fn follow_devices(&mut self) {
        self.monitor.take();
        // The process that has the lock may be stopped, and the lease must be renewed in time.
        let lock = self.registry.lock_within(RENEWAL_INTERVAL);
        let (guard, health) = (self.guard.as_ref(), &self.health);
        let Partial { done: needs_handover, trouble } = self.gate.follow(&mut || show_life(guard, health));
        drop(lock);
        if needs_handover {
            self.hand_over_again();
        }
        if let Some(error) = trouble {
            self.note_doubt(error.to_string());
        }
        self.check_gate();
    }

    /// Notes a doubt of the gate, once.
    fn check_gate(&mut self) {
        match self.gate.doubt() {
            Some(doubt) if !self.notes.contains(&doubt) && self.doubt.as_ref() != Some(&doubt) => {
                self.note_doubt(doubt);
            }
            _ => {}
        }
    }

    /// Delivers. Returns what became of the SYNs, and when that was done.
    fn deliver(&mut self) -> (HoldStats, Instant) {
        // The guard delivers when `reloader release` asks it to. The lock keeps both from delivering at once.
        self.guard.iter().for_each(Guard::announce_delivery);
        let lock = lock_delivery(self.entry.path());
        let Partial { done, trouble } = self.gate.deliver();
        drop(lock);
        let at = Instant::now();
        if let Some(error) = trouble {
            self.note_doubt(error.to_string());
        }
        (done, at)
    }

    /// Removes everything from the kernel, and lets the guard end. Returns what could not be removed.
    fn take_down(&mut self) -> Option<GateError> {
        let mut lifted = None;
        if let Some(guard) = &mut self.guard
            && let Err(error) = guard.finish_delivery()
        {
            log::debug!("the guard is gone: {error}");
            lifted = guard.lifted();
        }
        // If it was asked to release at the same moment, it may have delivered some of the SYNs.
        if let Some((stats, doubt)) = lifted {
            self.note_lifted(stats, doubt);
        }
        let gate = &mut self.gate;
        let removed = self.registry.under_lock(|| gate.remove());
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
        removed.err()
    }

    /// Notes what leaves the hold without a proof.
    fn note_doubt(&mut self, doubt: String) {
        self.doubt.get_or_insert_with(|| doubt.clone());
        self.health.note(&doubt);
        self.note(doubt);
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// Tells the guard and the owner of the hold that the worker goes on.
fn show_life(guard: Option<&Guard>, health: &HoldHealth) {
    guard.into_iter().for_each(Guard::show_life);
    health.heartbeat();
}

/// What became of the SYNs where holder and guard have both delivered. Both read the counts of SYNs that were parked from the same
/// maps or qdiscs. How many an eBPF gate has delivered, only that gate knows.
fn combined(backend: Backend, ours: HoldStats, guards: HoldStats) -> HoldStats {
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

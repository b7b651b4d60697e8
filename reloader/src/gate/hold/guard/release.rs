//! Releases a hold in its holder's place.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};

use super::state::{Cause, GuardState, Phase};
use crate::gate::contract::{Gate, HoldStats, Partial};
use crate::gate::failures::Failures;
use crate::gate::hold::channel::{self, ToHolder};
use crate::gate::hold::delivery_lock::lock_delivery;
use crate::gate::hold::error::HoldError;
use crate::gate::hold::registry::{HoldRegistry, mark_lifted, remove_entry};
use crate::gate::hold::timing::{LISTENER_POLL_INTERVAL, RENEWAL_INTERVAL};
use crate::gate::hold::{clean_up, factory};
use crate::kernel::clock::timespec;

/// What the guard could release.
struct Released {
    stats: HoldStats,
    /// What failed.
    trouble: Option<HoldError>,
}

impl GuardState {
    /// Takes the place of a dead holder. While nothing listens, a release would mean refused connections, so the guard holds on.
    pub(super) fn take_over(mut self, signals: &SignalFd) -> Result<(), HoldError> {
        log::warn!("the process that held SYNs has died, and its guard takes over");
        self.phase = match std::mem::replace(&mut self.phase, Phase::Delivered) {
            Phase::Holding { backend, handover, end, delivers: false } if self.asked.is_none() => {
                let mut gate = factory::restore(backend, handover)?;
                let why = self.hold_on(gate.as_mut(), end, signals);
                log::warn!("the guard releases what was held: {why}");
                Phase::HolderDead(gate)
            }
            other => other,
        };
        self.release()
    }

    /// Holds until there is a reason to release, and returns it.
    fn hold_on(&mut self, gate: &mut dyn Gate, end: Instant, signals: &SignalFd) -> String {
        let mut renewal = Instant::now();
        loop {
            if Instant::now() >= renewal {
                if let Err(error) = gate.renew() {
                    return format!("it cannot go on: {error}");
                }
                renewal = Instant::now() + RENEWAL_INTERVAL;
            }
            if self.succession.is_complete() {
                return "something listens".into();
            }
            if Instant::now() >= end {
                return "its longest time is over".into();
            }
            let mut ready = [PollFd::new(signals, PollFlags::IN)];
            if poll(&mut ready, Some(&timespec(LISTENER_POLL_INTERVAL))).is_ok_and(|ready| ready > 0) {
                return "it was asked to".into();
            }
        }
    }

    /// Releases in the place of a dead holder.
    fn release(mut self) -> Result<(), HoldError> {
        let Released { trouble, .. } = self.lift();
        // While something of the hold is left, the entry stays: a later cleanup removes both.
        trouble.map_or(Ok(()), Err)?;
        self.forget();
        Ok(())
    }

    /// Releases in the place of a holder that was stopped, or hangs.
    pub(super) fn lift_for_holder(mut self, cause: Cause, channel: BorrowedFd<'_>) -> Result<(), HoldError> {
        let Released { stats, trouble } = self.lift();
        let is_lifted = trouble.is_none();
        if is_lifted && let Err(error) = mark_lifted(&self.lock) {
            log::warn!("the registry does not say that the hold was lifted: {error}");
        }
        let doubt = trouble.map(|error| error.to_string()).or_else(|| cause.doubt());
        // A holder that has ended needs no message. Then the guard removes the entry, because no other process does.
        if channel::send(channel, &ToHolder::Lifted { stats, doubt }).is_err() && is_lifted {
            self.forget();
        }
        Ok(())
    }

    /// Delivers and removes.
    fn lift(&mut self) -> Released {
        // A missing entry, or a process that keeps the delivery lock, is no reason to leave SYNs parked.
        let _lock: Option<File> = lock_delivery(&self.entry).ok();
        let mut gate = match std::mem::replace(&mut self.phase, Phase::Delivered) {
            Phase::Holding { backend, handover, .. } => match factory::restore(backend, handover) {
                Ok(gate) => gate,
                Err(error) => return Released { stats: HoldStats::default(), trouble: Some(error.into()) },
            },
            Phase::HolderDead(gate) => gate,
            Phase::Preparing { bare } => return self.remove_traces(&bare),
            Phase::Delivered => return self.remove_traces(&BTreeSet::new()),
        };
        release_gate(gate.as_mut(), &self.registry())
    }

    fn remove_traces(&self, bare: &BTreeSet<u32>) -> Released {
        let removed = clean_up::remove_traces_of(self.id, bare, &self.registry());
        Released { stats: HoldStats::default(), trouble: removed.err() }
    }

    fn forget(&self) {
        if let Err(error) = remove_entry(&self.entry) {
            log::debug!("the registry entry of a hold stays: {error}");
        }
    }

    fn registry(&self) -> HoldRegistry {
        HoldRegistry::new(self.entry.parent().and_then(Path::parent).unwrap_or(Path::new("/")))
    }
}

fn release_gate(gate: &mut dyn Gate, registry: &HoldRegistry) -> Released {
    let Partial { done, trouble } = gate.deliver();
    let mut failures = Failures::from_iter(trouble.map(HoldError::from));
    failures.note(registry.under_lock(|| gate.remove()));
    Released { stats: done, trouble: failures.into_error() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::contract::testing::BrokenGate;

    #[test]
    fn a_guard_reports_both_what_was_not_delivered_and_what_was_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let released = release_gate(&mut BrokenGate, &HoldRegistry::new(dir.path()));
        assert_eq!(released.trouble.unwrap().to_string(), "2 SYNs stay parked; also: a filter stays");
    }
}

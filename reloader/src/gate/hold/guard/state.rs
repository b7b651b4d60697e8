//! What a guard was given, and what it does with it when the holder does not.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};

use super::super::channel::{self, Assignment, Entrusted, ToHolder};
use super::super::delivery_lock::only_one_delivers;
use super::super::registry::HoldRegistry;
use super::super::worker::RENEWAL_INTERVAL;
use super::super::{Backend, Gate, Handover, HoldError, HoldStats, LEASE, Partial, clean_up, own_entry, restore};
use super::succession::{Ports, Succession};
use crate::kernel::clock::{monotonic_ns, timespec};

/// How long a holder may take to deliver, unheard: the gates wait 2 and 5 s for what listeners and the kernel do soon.
const DELIVERY: Duration = Duration::from_secs(10);

/// How often a guard without a holder looks whether something listens: no event tells of listen(2) in another process.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long a holder may take to begin a release that somebody asked for, before its guard does it.
const HOLDER_RELEASE_TIMEOUT: Duration = LEASE;

/// A hold that is guarded, from before anything of it is in the kernel.
pub(super) struct GuardState {
    id: u16,
    record: PathBuf,
    /// Keeps the hold on record as living.
    lock: File,
    /// Keeps it living for whoever knows nothing of the record.
    _name: Option<OwnedFd>,
    succession: Succession,
    /// When the release was asked for.
    asked: Option<Instant>,
    progress: Progress,
    /// When the holder has to be heard of; for ever where the kernel itself ends a hold that nobody renews.
    heartbeat: Option<Instant>,
}

enum Progress {
    /// Nothing is parked yet; on these devices there was no `ingress` or `clsact` before.
    Prepares { bare: BTreeSet<u32> },
    /// SYNs may be parked until the end, when a holder that stands still is waited for no longer.
    /// Once the holder `delivers`, new SYNs pass.
    Holds { backend: Backend, keepsake: Handover, end: Instant, delivers: bool },
    /// The holder is dead, and this is its gate.
    Alone(Box<dyn Gate>),
    /// Everything is delivered.
    Delivered,
}

/// EndReason a guard releases although the holder lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Asked,
    Silent,
    Over,
}

impl GuardState {
    pub(super) fn new(charge: Assignment, descriptors: Vec<OwnedFd>) -> io::Result<GuardState> {
        let Assignment { id, record } = charge;
        let mut descriptors = descriptors.into_iter();
        let mut next =
            |what| descriptors.next().ok_or_else(|| io::Error::other(format!("the charge came without {what}")));
        let (lock, ports, leaving) = (next("the record's lock")?, next("its ports")?, next("its eventfd")?);
        let succession = Succession::new(Ports::from_file(ports.into())?, leaving);
        let progress = Progress::Prepares { bare: clean_up::bare_devices().unwrap_or_default() };
        Ok(GuardState {
            id,
            record,
            lock: lock.into(),
            _name: descriptors.next(),
            succession,
            asked: None,
            progress,
            heartbeat: None,
        })
    }

    /// From now on SYNs can be parked. It is another keepsake where devices came during the hold.
    pub(super) fn complete(&mut self, entrusted: Entrusted, descriptors: Vec<OwnedFd>) {
        let Entrusted { backend, end, manifest } = entrusted;
        let end = Instant::now() + Duration::from_nanos(end.saturating_sub(monotonic_ns())) + LEASE;
        self.progress = Progress::Holds { backend, keepsake: Handover { manifest, descriptors }, end, delivers: false };
        // It arms now, on many devices perhaps.
        self.expect_holder_within(DELIVERY);
    }

    pub(super) fn is_entrusted(&self) -> bool {
        !matches!(self.progress, Progress::Prepares { .. })
    }

    /// The release is asked for: the holder is told, and given time to begin. One that cannot be told is dead, or far behind.
    pub(super) fn note_request(&mut self, tell_holder: impl FnOnce()) {
        if self.asked.is_none() {
            self.asked = Some(Instant::now());
            tell_holder();
        }
    }

    pub(super) fn holder_lives(&mut self) {
        self.expect_holder_within(LEASE);
    }

    /// A plug has no lease: the guard has to be told that somebody is there.
    fn expect_holder_within(&mut self, time: Duration) {
        let is_needed = matches!(self.progress, Progress::Holds { backend: Backend::Qdisc, delivers: false, .. });
        self.heartbeat = is_needed.then(|| Instant::now() + time);
    }

    pub(super) fn holder_delivers(&mut self) {
        self.heartbeat = None;
        if let Progress::Holds { end, delivers, .. } = &mut self.progress {
            *end = Instant::now() + DELIVERY;
            *delivers = true;
        }
    }

    /// Its duplicates keep nothing in the kernel any more.
    pub(super) fn holder_delivered(&mut self) {
        self.progress = Progress::Delivered;
    }

    /// When the guard does not wait for the holder any longer, and why. While nothing is parked, only who asks hurries.
    pub(super) fn due(&self) -> Option<(Instant, Cause)> {
        let asked = self.asked.map(|asked| (asked + HOLDER_RELEASE_TIMEOUT, Cause::Asked));
        let Progress::Holds { end, .. } = &self.progress else { return asked };
        let silent = self.heartbeat.map(|at| (at, Cause::Silent));
        [asked, silent, Some((*end, Cause::Over))].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The holder is dead. While nothing listens, a release would be a refusal.
    pub(super) fn take_over(mut self, signals: &SignalFd) -> Result<(), HoldError> {
        log::warn!("the process that held SYNs has died, and its guard takes over");
        self.progress = match std::mem::replace(&mut self.progress, Progress::Delivered) {
            Progress::Holds { backend, keepsake, end, delivers: false } if self.asked.is_none() => {
                let mut gate = restore(backend, keepsake)?;
                let why = self.hold_on(gate.as_mut(), end, signals);
                log::warn!("the guard releases what was held: {why}");
                Progress::Alone(gate)
            }
            other => other,
        };
        self.release()
    }

    /// Returns why there is nothing to wait for any more.
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
            if poll(&mut ready, Some(&timespec(POLL_INTERVAL))).is_ok_and(|ready| ready > 0) {
                return "it was asked to".into();
            }
        }
    }

    /// Releases in the place of a holder that is dead.
    fn release(mut self) -> Result<(), HoldError> {
        // On record it stays while something of it is left: whoever comes next cleans up.
        self.lift()?.into_result()?;
        self.forget();
        Ok(())
    }

    /// The holder was stopped, or hangs.
    pub(super) fn lift_for_holder(mut self, cause: Cause, channel: BorrowedFd<'_>) -> Result<(), HoldError> {
        let (figures, trouble) = match self.lift() {
            Ok(Partial { done, trouble }) => (done, trouble),
            Err(error) => (HoldStats::default(), Some(error)),
        };
        let is_lifted = trouble.is_none();
        if is_lifted && let Err(error) = own_entry::mark_lifted(&self.lock) {
            log::warn!("the record does not say that the hold was lifted: {error}");
        }
        let trouble = trouble.map(|error| error.to_string()).or_else(|| cause.sentence());
        // A holder that is gone needs no answer, but nobody else removes the record then.
        if channel::send(channel, &ToHolder::Lifted { figures, trouble }).is_err() && is_lifted {
            self.forget();
        }
        Ok(())
    }

    fn lift(&mut self) -> Result<Partial<HoldStats>, HoldError> {
        // A record that somebody removed, or a turn that somebody keeps, is no reason to leave SYNs parked.
        let _alone: Option<File> = only_one_delivers(&self.record).ok();
        let none = BTreeSet::new();
        let mut gate = match std::mem::replace(&mut self.progress, Progress::Delivered) {
            Progress::Holds { backend, keepsake, .. } => restore(backend, keepsake)?,
            Progress::Alone(gate) => gate,
            Progress::Prepares { bare } => return self.remove_traces(&bare),
            Progress::Delivered => return self.remove_traces(&none),
        };
        let delivered = gate.deliver();
        let removed = self.records().alone(|| gate.remove()).err();
        Ok(Partial { trouble: delivered.trouble.or(removed), ..delivered })
    }

    fn remove_traces(&self, bare: &BTreeSet<u32>) -> Result<Partial<HoldStats>, HoldError> {
        clean_up::remove_traces_of(self.id, bare, &self.records())?;
        Ok(Partial { done: HoldStats::default(), trouble: None })
    }

    fn forget(&self) {
        if let Err(error) = own_entry::remove(&self.record) {
            log::debug!("the record {}: {error}", self.record.display());
        }
    }

    fn records(&self) -> HoldRegistry {
        HoldRegistry::new(self.record.parent().and_then(Path::parent).unwrap_or(Path::new("/")))
    }
}

impl Cause {
    /// What stands against a proof, where nobody asked for it.
    fn sentence(self) -> Option<String> {
        match self {
            Cause::Asked => None,
            Cause::Silent => Some(format!(
                "the guard lifted the hold, because the process that holds had stood still for {} ms",
                LEASE.as_millis()
            )),
            Cause::Over => Some("the guard lifted the hold, because its longest time was over".into()),
        }
    }
}

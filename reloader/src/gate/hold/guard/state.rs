//! Keeps what a guard knows of its hold.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::ports::Ports;
use super::succession::Succession;
use crate::gate::contract::{Backend, Gate, Handover, LEASE};
use crate::gate::hold::channel::{Assignment, HandoverMessage};
use crate::gate::hold::clean_up;
use crate::gate::hold::timing::{HOLDER_DELIVERY_TIMEOUT, HOLDER_RELEASE_TIMEOUT};
use crate::kernel::clock::monotonic_ns;

/// A hold that is guarded, from before anything of it is in the kernel.
pub(super) struct GuardState {
    pub(super) id: u16,
    /// The path of the registry entry.
    pub(super) entry: PathBuf,
    /// The open registry entry. Its lock shows that the hold lives.
    pub(super) lock: File,
    /// Shows to processes with another registry that the hold lives.
    _liveness_socket: Option<OwnedFd>,
    pub(super) succession: Succession,
    /// When the release was asked for.
    pub(super) asked: Option<Instant>,
    pub(super) phase: Phase,
    /// When the guard must have heard of the holder. `None` where the kernel itself ends a hold whose lease is not renewed.
    heartbeat_due: Option<Instant>,
}

pub(super) enum Phase {
    /// Nothing is parked yet. The devices in `bare` had neither `ingress` nor `clsact`.
    Preparing { bare: BTreeSet<u32> },
    /// SYNs may be parked. The guard releases at `end`, even where the holder stands still. Once the holder `delivers`, new SYNs pass.
    Holding { backend: Backend, handover: Handover, end: Instant, delivers: bool },
    /// The holder is dead, and the guard operates its gate.
    HolderDead(Box<dyn Gate>),
    /// Everything is delivered.
    Delivered,
}

/// Why a guard releases although the holder lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// `reloader release` asked for it.
    Asked,
    /// The holder gave no sign of life.
    HolderSilent,
    /// The longest time of the hold is over.
    TimeOver,
}

impl GuardState {
    pub(super) fn new(assignment: Assignment, descriptors: Vec<OwnedFd>) -> io::Result<GuardState> {
        let Assignment { id, entry } = assignment;
        let mut descriptors = descriptors.into_iter();
        let mut next =
            |what| descriptors.next().ok_or_else(|| io::Error::other(format!("the assignment came without {what}")));
        let (lock, ports, old_leaving) = (next("the registry entry")?, next("its ports")?, next("its eventfd")?);
        let succession = Succession::new(Ports::from_file(ports.into())?, old_leaving);
        let phase = Phase::Preparing { bare: clean_up::bare_devices().unwrap_or_default() };
        Ok(GuardState {
            id,
            entry,
            lock: lock.into(),
            _liveness_socket: descriptors.next(),
            succession,
            asked: None,
            phase,
            heartbeat_due: None,
        })
    }

    /// SYNs can be parked from now on. A second handover comes where devices were added during the hold.
    pub(super) fn accept_handover(&mut self, message: HandoverMessage, descriptors: Vec<OwnedFd>) {
        let HandoverMessage { backend, end, manifest } = message;
        let end = Instant::now() + Duration::from_nanos(end.saturating_sub(monotonic_ns())) + LEASE;
        self.phase = Phase::Holding { backend, handover: Handover { manifest, descriptors }, end, delivers: false };
        // The holder now arms the gate, perhaps on many devices.
        self.expect_holder_within(HOLDER_DELIVERY_TIMEOUT);
    }

    pub(super) fn has_handover(&self) -> bool {
        !matches!(self.phase, Phase::Preparing { .. })
    }

    /// Notes that the release was asked for, and tells the holder with `tell_holder`. The holder has time to begin. A holder that cannot be told
    /// is dead, or is far behind with its messages.
    pub(super) fn note_request(&mut self, tell_holder: impl FnOnce()) {
        if self.asked.is_none() {
            self.asked = Some(Instant::now());
            tell_holder();
        }
    }

    pub(super) fn holder_lives(&mut self) {
        self.expect_holder_within(LEASE);
    }

    /// Only for the qdisc gate. A plug has no lease, so the guard must hear that the holder lives.
    fn expect_holder_within(&mut self, time: Duration) {
        let is_needed = matches!(self.phase, Phase::Holding { backend: Backend::Qdisc, delivers: false, .. });
        self.heartbeat_due = is_needed.then(|| Instant::now() + time);
    }

    pub(super) fn holder_delivers(&mut self) {
        self.heartbeat_due = None;
        if let Phase::Holding { end, delivers, .. } = &mut self.phase {
            *end = Instant::now() + HOLDER_DELIVERY_TIMEOUT;
            *delivers = true;
        }
    }

    /// Closes the duplicates, which keep nothing in the kernel from then on.
    pub(super) fn holder_has_delivered(&mut self) {
        self.phase = Phase::Delivered;
    }

    /// When the guard stops waiting for the holder, and why. While nothing is parked, only a request to release sets a limit.
    pub(super) fn due(&self) -> Option<(Instant, Cause)> {
        let asked = self.asked.map(|asked| (asked + HOLDER_RELEASE_TIMEOUT, Cause::Asked));
        let Phase::Holding { end, .. } = &self.phase else { return asked };
        let silent = self.heartbeat_due.map(|at| (at, Cause::HolderSilent));
        [asked, silent, Some((*end, Cause::TimeOver))].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

impl Cause {
    /// The doubt about a proof. `None` where the release was asked for.
    pub(super) fn doubt(self) -> Option<String> {
        match self {
            Cause::Asked => None,
            Cause::HolderSilent => Some(format!(
                "the guard lifted the hold, because the process that holds had stood still for {} ms",
                LEASE.as_millis()
            )),
            Cause::TimeOver => Some("the guard lifted the hold, because its longest time was over".into()),
        }
    }
}

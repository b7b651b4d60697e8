//! Starts a hold: everything is in place and guarded before the first SYN is parked.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::HoldWorker;
use crate::gate::contract::Spec;
use crate::gate::failures::joined;
use crate::gate::hold::clean_up::clean_up_after_the_dead;
use crate::gate::hold::error::HoldError;
use crate::gate::hold::factory::{self, Prepared};
use crate::gate::hold::guard::{Guard, Ports};
use crate::gate::hold::health::HoldHealth;
use crate::gate::hold::registry::HoldRegistry;
use crate::gate::hold::request::{HoldOutcome, HoldRequest, HoldStarted};
use crate::kernel::clock::timespec;
use crate::kernel::monitor::Monitor;

impl HoldWorker {
    /// Puts a gate in place, with a guard. Nothing is parked yet. `old_leaving` is the eventfd that says that the old server leaves.
    ///
    /// # Errors
    /// Where nothing can be held. Nothing is left in the kernel then.
    pub(in crate::gate::hold) fn prepare(request: HoldRequest, old_leaving: OwnedFd) -> Result<HoldWorker, HoldError> {
        let registry = HoldRegistry::new(&request.runtime_dir);
        clean_up_after_the_dead(&registry);
        let entry = registry.claim(&request.targets, request.netns_path.as_deref())?;
        let spec = spec(&request, entry.id());
        let monitor = Monitor::begin()?;
        // Before anything is put into the kernel: whenever this process dies, the guard removes it.
        let guard = Guard::start(&request.program, &request.inheritance);
        let ports = ports_file(&request)?;
        let guard = guard.and_then(|guard| guard.assign(&entry, &ports, &old_leaving, &mut || ()));
        let guard = guard.map_err(HoldError::Guard)?;
        // Under the lock: two holds must not take the same thing for unused.
        let lock = registry.lock()?;
        let prepared = factory::prepare(&spec, request.backend);
        drop(lock);
        let Prepared { backend, gate, note } = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                guard.dismiss();
                return Err(error);
            }
        };
        Ok(HoldWorker {
            gate,
            guard: Some(guard),
            registry,
            entry,
            monitor,
            health: Arc::new(HoldHealth::new()),
            backend,
            ends: Instant::now() + request.max,
            request,
            ports,
            old_leaving,
            replacements: 0,
            lifted: None,
            doubt: None,
            notes: note.into_iter().collect(),
        })
    }

    /// Hands the gate over to the guard, and arms it.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub(in crate::gate::hold) fn arm(mut self) -> Result<(HoldWorker, HoldStarted), HoldError> {
        self.ends = Instant::now() + self.request.max;
        if let Err(error) = self.hand_over_and_arm() {
            return Err(joined(error, self.take_down().map(HoldError::from)));
        }
        self.health.heartbeat();
        self.check_gate();
        let at = Instant::now();
        self.ends = at + self.request.max;
        let started = HoldStarted { backend: self.backend, at, notes: std::mem::take(&mut self.notes) };
        Ok((self, started))
    }

    fn hand_over_and_arm(&mut self) -> Result<(), HoldError> {
        if self.have_devices_changed() {
            self.monitor.take();
            self.gate.follow(&mut || ()).into_result()?;
        }
        let guard = self.guard.take().ok_or_else(|| HoldError::Guard(io::ErrorKind::BrokenPipe.into()))?;
        self.hand_over(guard, &mut |_| ()).map_err(HoldError::Guard)?;
        Ok(self.gate.arm()?)
    }

    /// Whether devices or addresses came or went since the gate was put in place.
    fn have_devices_changed(&self) -> bool {
        let mut ready = [PollFd::from_borrowed_fd(self.monitor.as_fd(), PollFlags::IN)];
        poll(&mut ready, Some(&timespec(Duration::ZERO))).is_ok_and(|ready| ready > 0)
    }

    /// Removes what was prepared and is not wanted after all.
    pub(in crate::gate::hold) fn give_up(mut self) -> HoldOutcome {
        if let Some(error) = self.take_down() {
            log::error!("{error}");
        }
        HoldOutcome::failed(Vec::new())
    }
}

fn spec(request: &HoldRequest, id: u16) -> Spec {
    Spec { id, targets: request.targets.clone(), exceptions: request.exceptions.clone(), capacity: request.capacity }
}

fn ports_file(request: &HoldRequest) -> io::Result<File> {
    let HoldRequest { targets, exceptions, old, .. } = request;
    Ports { targets: targets.clone(), exceptions: exceptions.clone(), old: old.clone() }.to_file()
}

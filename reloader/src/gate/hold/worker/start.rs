//! Starts a hold: everything is in place and guarded before the first SYN is parked.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::HoldWorker;
use crate::gate::contract::Spec;
use crate::gate::failures::joined;
use crate::gate::hold::clean_up::clean_up_after_the_dead;
use crate::gate::hold::error::HoldError;
use crate::gate::hold::factory::{self, Prepared};
use crate::gate::hold::guard::{Guard, Ports};
use crate::gate::hold::health::HoldHealth;
use crate::gate::hold::registry::HoldRegistry;
use crate::gate::hold::request::{HoldRequest, HoldStarted};
use crate::kernel::monitor::Monitor;

impl HoldWorker {
    /// Starts a hold. `old_leaving` is the eventfd that says that the old server leaves.
    ///
    /// # Errors
    /// Where nothing can be held. Nothing is left in the kernel then.
    pub(in crate::gate::hold) fn begin(
        request: HoldRequest,
        old_leaving: OwnedFd,
    ) -> Result<(HoldWorker, HoldStarted), HoldError> {
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
        let mut worker = HoldWorker {
            gate,
            guard: None,
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
        };
        let started = worker.arm(guard)?;
        Ok((worker, started))
    }

    /// Hands the gate over to the guard, and arms it.
    fn arm(&mut self, guard: Guard) -> Result<HoldStarted, HoldError> {
        let handed_over = self.hand_over(guard, &mut |_| ()).map_err(HoldError::Guard);
        if let Err(error) = handed_over.and_then(|()| Ok(self.gate.arm()?)) {
            return Err(joined(error, self.take_down().map(HoldError::from)));
        }
        self.health.heartbeat();
        self.check_gate();
        let at = Instant::now();
        self.ends = at + self.request.max;
        Ok(HoldStarted { backend: self.backend, at, notes: std::mem::take(&mut self.notes) })
    }
}

fn spec(request: &HoldRequest, id: u16) -> Spec {
    Spec { id, targets: request.targets.clone(), exceptions: request.exceptions.clone(), capacity: request.capacity }
}

fn ports_file(request: &HoldRequest) -> io::Result<File> {
    let HoldRequest { targets, exceptions, old, .. } = request;
    Ports { targets: targets.clone(), exceptions: exceptions.clone(), old: old.clone() }.to_file()
}

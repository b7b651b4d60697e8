//! Looks at retired generations beside the loop, so that it is known what each had when it ends.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Generation;
use super::connections::OpenConnections;
use super::drain_ledger::{DrainLedger, Found};
use crate::model::listener::Endpoint;
use crate::process::{self, Handle, ProcessScope};

/// After a look the next one waits for this many times as long as the look took. So the looks take a twentieth of one processor
/// at most, however many connections there are.
const REST: u32 = 20;

/// How many connections of a generation are noted one by one.
const SAMPLE: usize = 256;

/// A look at one retired generation.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    ledger: Arc<Mutex<DrainLedger>>,
    root: Handle,
    scope: ProcessScope,
    endpoints: Vec<Endpoint>,
}

impl Look {
    /// A look at this generation.
    pub(super) fn at(generation: &Generation) -> Look {
        Look {
            ledger: generation.ledger.clone(),
            root: generation.process.clone(),
            scope: generation.scope,
            endpoints: generation.listeners.iter().map(|owned| owned.listener.endpoint.clone()).collect(),
        }
    }

    /// The root process of the generation.
    pub(crate) fn root(&self) -> &Handle {
        &self.root
    }

    /// Looks now, and returns the number of its open connections; `None` when the kernel does not say.
    pub(super) fn count(&self) -> Option<u64> {
        let at = Instant::now();
        OpenConnections::read(&self.endpoints).ok().map(|open| self.carry_out(&open, at))
    }

    /// Counts the connections of each of its processes that lives afterwards.
    fn carry_out(&self, open: &OpenConnections, at: Instant) -> u64 {
        let accepted = open.accepted_from(&self.endpoints);
        let mut own = HashSet::new();
        let count = |pid: u32| {
            let started = process::start_time(pid)?;
            let sockets = process::sockets_of(&[pid]);
            let connections: Vec<u64> = sockets.into_keys().filter(|inode| accepted.contains(inode)).collect();
            let number = connections.len() as u64;
            own.extend(connections);
            let is_root = pid == self.root.pid();
            // A handle takes a descriptor: the many processes without connections have none.
            if number == 0 && !is_root {
                return None;
            }
            let handle = if is_root { self.root.clone() } else { Handle::adopt(pid, started)? };
            // The descriptors of a process that ends are gone before its end is known.
            handle.try_ended().is_none().then_some((handle, number))
        };
        let processes: Vec<(Handle, u64)> =
            self.scope.processes(self.root.pid()).into_iter().filter_map(count).collect();
        let sum = processes.iter().map(|(_, connections)| connections).sum();
        if !processes.is_empty() {
            let found = Found { at, processes, sample: open.ends_of(&own, SAMPLE) };
            self.ledger.lock().expect("no panic under this lock").note(found);
        }
        sum
    }
}

/// Carries out looks now. It blocks for as long as the kernel takes.
pub(super) fn look_now(looks: &[Look]) {
    let at = Instant::now();
    let endpoints: Vec<Endpoint> = looks.iter().flat_map(|look| look.endpoints.iter().cloned()).collect();
    match OpenConnections::read(&endpoints) {
        Ok(open) => looks.iter().for_each(|look| {
            look.carry_out(&open, at);
        }),
        Err(error) => log::debug!("the connections of retired generations are not known: {error}"),
    }
}

/// When the next looks are due.
#[derive(Debug, Clone, Default)]
pub(super) struct DrainLooks(Arc<Mutex<Schedule>>);

#[derive(Debug, Default)]
struct Schedule {
    is_under_way: bool,
    not_before: Option<Instant>,
}

impl DrainLooks {
    /// Carries out looks beside the loop, if they are due.
    pub(super) fn begin(&self, looks: impl Iterator<Item = Look>) {
        {
            let mut schedule = self.schedule();
            if schedule.is_under_way || schedule.not_before.is_some_and(|at| Instant::now() < at) {
                return;
            }
            schedule.is_under_way = true;
        }
        let (looks, this) = (looks.collect::<Vec<Look>>(), self.clone());
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            if !looks.is_empty() {
                look_now(&looks);
            }
            let rest: Duration = began.elapsed() * REST;
            *this.schedule() = Schedule { is_under_way: false, not_before: Some(Instant::now() + rest) };
        });
    }

    fn schedule(&self) -> std::sync::MutexGuard<'_, Schedule> {
        self.0.lock().expect("no panic under this lock")
    }
}

//! Processes that outlived the first one of their generation. What still accepts drains like any retired generation.

use std::collections::HashSet;

use super::{Generation, Supervisor};
use crate::model::listener::Owned;
use crate::process::{self, Handle, ProcessScope};

impl Supervisor {
    /// Follows those of a generation whose first process has ended.
    pub(crate) fn follow_orphans(&mut self, dead: &Generation) {
        let left = match dead.scope {
            ProcessScope::SameProgram => dead.worker_processes.clone(),
            // Whoever is of its session, which begins with its root: a service manager may have the sockets too.
            ProcessScope::All => process::session_members(dead.process.pid()),
        };
        if left.is_empty() {
            return;
        }
        let mut listeners = dead.listeners.clone();
        listeners.extend(self.server.listeners_at_its_addresses());
        let others = self.serving.iter().chain(&self.starting).chain(&self.draining);
        let known: HashSet<u32> = others.flat_map(Generation::tree).collect();
        for (pid, start_time) in left.into_iter().filter(|(pid, _)| !known.contains(pid)) {
            let Some(process) = Handle::adopt(pid, start_time) else { continue };
            let mut orphan = dead.orphan(process);
            if dead.scope == ProcessScope::All {
                orphan.listeners = held_by(&orphan, &listeners);
                if orphan.listeners.is_empty() {
                    continue;
                }
            }
            log::warn!("{}: process {pid} of generation {} outlived its master", self.name, dead.number);
            self.draining.push(orphan);
        }
        self.tell_orphans();
    }

    /// A worker is told to drain. Who has a listener and does not wait on it answers a client, and ends by itself; else it is told as
    /// soon as it waits for another.
    pub(crate) fn tell_orphans(&mut self) {
        for orphan in self.draining.iter_mut().filter(|generation| generation.awaits_retirement) {
            if orphan.scope == ProcessScope::SameProgram || orphan.waits() {
                orphan.awaits_retirement = false;
                log::warn!("{}: process {} is told to drain", self.name, orphan.process.pid());
                self.server.retire(&orphan.ending());
            }
        }
    }
}

fn held_by(orphan: &Generation, listeners: &[Owned]) -> Vec<Owned> {
    let sockets = process::sockets_of(&orphan.processes());
    listeners.iter().filter(|owned| sockets.contains_key(&owned.listener.inode)).cloned().collect()
}

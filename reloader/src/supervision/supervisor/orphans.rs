//! Follows processes that outlived the first process of their generation. A process that still accepts connections drains
//! like any retired generation.

use std::collections::HashSet;

use super::Supervisor;
use crate::model::listener::Owned;
use crate::process::{self, Handle, ProcessScope};
use crate::supervision::Generation;

impl Supervisor {
    /// Follows the processes that are left of a generation whose first process has ended. Examples are a worker of
    /// HAProxy whose master was killed, and a server whose script has ended.
    pub(crate) fn follow_orphans(&mut self, dead: &Generation) {
        let left = match dead.scope {
            ProcessScope::SameProgram => dead.worker_processes.clone(),
            // All processes of the session that began with the root process. Ownership of the sockets does not tell them,
            // because a service manager may own the sockets too.
            ProcessScope::All => process::session_members(dead.process.pid()),
        };
        if left.is_empty() {
            return;
        }
        let mut listeners = dead.listeners.clone();
        listeners.extend(self.server().listeners_at_its_addresses());
        let generations = &self.generations;
        let others = generations.serving().into_iter().chain(generations.starting()).chain(generations.draining());
        let known: HashSet<u32> = others.flat_map(Generation::tree).collect();
        for (pid, start_time) in left.into_iter().filter(|(pid, _)| !known.contains(pid)) {
            let Some(process) = Handle::adopt(pid, start_time) else { continue };
            let mut orphan = dead.orphan(process);
            if dead.scope == ProcessScope::All {
                orphan.listeners = owned_by(&orphan, &listeners);
                if orphan.listeners.is_empty() {
                    continue;
                }
            }
            log::warn!("{}: process {pid} of generation {} outlived its master", self.name(), dead.number);
            self.generations.add_draining(orphan);
        }
        self.ask_orphans();
    }

    /// Asks orphans to end. An orphan of a server other than HAProxy is asked once it waits for connections: a process
    /// that was forked for one client ends by itself.
    pub(crate) fn ask_orphans(&mut self) {
        let (name, server) = (self.service.name(), self.service.server());
        self.generations.update_draining(|orphan| {
            let waits = |orphan: &Generation| orphan.scope == ProcessScope::SameProgram || orphan.waits();
            if orphan.awaits_retirement && waits(orphan) {
                orphan.awaits_retirement = false;
                log::warn!("{name}: process {} is told to drain", orphan.process.pid());
                server.retire(&orphan.retire_request());
            }
        });
    }
}

fn owned_by(orphan: &Generation, listeners: &[Owned]) -> Vec<Owned> {
    let sockets = process::sockets_of(&orphan.processes());
    listeners.iter().filter(|owned| sockets.contains_key(&owned.listener.inode)).cloned().collect()
}

//! Gives up a generation that failed. It may already accept, so it is drained, and killed only when it no longer reacts.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::haproxy::inspect::stats_socket_inode;
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::listener::Address;
use crate::process::{self, DescriptorTables, ProcessScope, SocketOwner};
use crate::reload::attempt::Attempt;
use crate::supervision::{CustodyEnd, Generation, Supervisor};

/// How long an abandoned generation may go on listening after it was asked to drain.
const REACTION_TIMEOUT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

impl Attempt<'_> {
    /// Drains the generation that was being started, if any. With `ends_custody` the daemon lets go of the sockets that it shares: nothing
    /// serves them, and nothing will soon.
    pub(in crate::reload) async fn abandon(&mut self, ends_custody: bool) {
        let Some(mut generation) = self.supervisor.take_starting() else { return };
        self.recorder.receipt().new = None;
        let supervisor = &mut *self.supervisor;
        let mut alive = None;
        generation.listeners = supervisor.present_listeners();
        if generation.process.try_ended().is_some() {
            generation.clean_up();
            // Workers that outlive the process may already accept connections.
            supervisor.follow_orphans(&generation);
            supervisor.record();
        } else {
            // What it was given is in custody, or nothing has it any more.
            generation.given.clear();
            let observed = Observed::now(&mut generation, supervisor);
            let (number, pid) = (generation.number, generation.process.pid());
            log::warn!("generation {number} (process {pid}) is abandoned: it drains");
            let request = generation.retire_request();
            generation.note_abandoned();
            supervisor.begin_draining(generation).await;
            supervisor.server().retire(&request);
            alive = Some(observed);
        }
        if ends_custody {
            supervisor.drop_custody(CustodyEnd::CustodyMax);
        }
        if let Some(observed) = alive {
            self.follow_abandoned(&observed).await;
        }
    }

    /// Follows the abandoned generation, the last among the draining ones, until it has reacted. Kills it when it does not.
    async fn follow_abandoned(&mut self, observed: &Observed) {
        let Some(generation) = self.supervisor.generations().draining().last() else { return };
        if reacts(generation, observed).await {
            if observed.has_own != Some(false) {
                self.recorder.note(
                    "the abandoned generation had bound sockets of its own: what was queued on them is not known",
                );
                self.recorder.receipt().lost.abandoned = None;
            }
            return;
        }
        self.recorder.receipt().lost.abandoned = generation.open_connections();
        let (number, pid) = (generation.number, generation.process.pid());
        self.recorder.note(format!("the abandoned generation (process {pid}) did not react and was killed"));
        generation.kill().await;
        self.supervisor.note_recorded_end(number);
        self.supervisor.reap_draining().await;
    }
}

/// The listening sockets that an abandoned generation had when it was given up.
struct Observed {
    /// The sockets that it shares with the serving generation, and its stats socket.
    known: HashMap<u64, SocketOwner>,
    /// Whether it bound sockets of its own; `None` when the kernel does not say.
    has_own: Option<bool>,
}

impl Observed {
    /// Lists the sockets now, and notes in the generation which of its processes have them.
    fn now(generation: &mut Generation, supervisor: &Supervisor) -> Observed {
        let sockets = process::sockets_of(&generation.processes());
        let machine = sock_diag::listeners();
        let stats = machine.as_ref().ok().and_then(|all| stats_socket_inode(&generation.socket, all, &sockets));
        generation.sentinel = generation.sentinel.or(stats);
        generation.note_worker_processes(&sockets);
        let shared: HashSet<u64> = supervisor.custody().kept().iter().map(|held| held.listener.inode).collect();
        let own = |found: &ListenSocket| {
            let is_tcp = matches!(found.address, Address::Inet(_));
            is_tcp && sockets.contains_key(&found.inode) && !shared.contains(&found.inode)
        };
        let has_own = machine.as_ref().ok().map(|all| all.iter().any(own));
        // Everything that another server than HAProxy listens on is traffic.
        let all = machine.as_ref().ok().filter(|_| generation.scope == ProcessScope::All).into_iter().flatten();
        let known = shared.iter().copied().chain(stats).chain(all.map(|found| found.inode));
        let known = known.filter_map(|inode| Some((inode, *sockets.get(&inode)?))).collect();
        Observed { known, has_own }
    }

    fn are_open(&self) -> bool {
        DescriptorTables::default().has_any(&self.known)
    }
}

/// True when the generation ends, or closes the listeners in `observed`.
async fn reacts(generation: &Generation, observed: &Observed) -> bool {
    let deadline = Instant::now() + REACTION_TIMEOUT;
    loop {
        if generation.process.try_ended().is_some() || (!observed.known.is_empty() && !observed.are_open()) {
            return true;
        }
        if Instant::now() >= deadline {
            return !observed.are_open() && !generation.tree().into_iter().any(process::is_stopped);
        }
        tokio::select! {
            _ = generation.process.ended() => return true,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
    }
}

//! Gives up a generation that failed. It may already accept, so it is drained, and killed only when it no longer reacts.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::haproxy::inspect::stats_socket_inode;
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::listener::Address;
use crate::process::{self, ProcessScope, SocketOwner};
use crate::receipt::Recorder;
use crate::supervision::{Generation, Supervisor};

/// How long an abandoned generation may go on listening after it was told to drain.
const REACTION_TIME: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Drains the generation that was being started, if any. With `ends_custody` the daemon lets go of the sockets it
/// shares: nothing serves them, and nothing will soon.
pub(crate) async fn abandon(supervisor: &mut Supervisor, ends_custody: bool, recorder: &mut Recorder) {
    let Some(mut generation) = supervisor.starting.take() else { return };
    recorder.receipt().new = None;
    let mut alive = None;
    if generation.process.try_ended().is_some() {
        generation.clean_up();
        // Its workers may already accept.
        generation.listeners = supervisor.present_listeners();
        supervisor.follow_orphans(&generation);
        supervisor.record_or_log();
    } else {
        generation.listeners = supervisor.present_listeners();
        // What it was given is in custody, or nobody's.
        generation.given.clear();
        let seen = Seen::observe(&mut generation, supervisor);
        log::warn!("generation {} (process {}) is abandoned: it drains", generation.number, generation.process.pid());
        let ending = generation.ending();
        supervisor.begin_draining(generation);
        supervisor.server.retire(&ending);
        alive = Some(seen);
    }
    if ends_custody {
        supervisor.drop_custody();
    }
    if let Some(seen) = alive {
        follow(supervisor, &seen, recorder).await;
    }
}

/// The listening sockets it had when it was given up.
struct Seen {
    /// Those it shares, and its stats socket.
    known: Vec<(u64, SocketOwner)>,
    /// It bound others; `None` when the kernel does not say.
    has_own: Option<bool>,
}

impl Seen {
    /// The generation is told which of its processes have them.
    fn observe(generation: &mut Generation, supervisor: &Supervisor) -> Seen {
        let sockets = process::sockets_of(&generation.processes());
        let machine = sock_diag::listeners();
        let stats = machine.as_ref().ok().and_then(|all| stats_socket_inode(&generation.socket, all, &sockets));
        generation.sentinel = generation.sentinel.or(stats);
        generation.note_worker_processes(&sockets);
        let shared: HashSet<u64> = supervisor.custody.kept().iter().map(|held| held.listener.inode).collect();
        let own = |found: &ListenSocket| {
            let is_tcp = matches!(found.address, Address::Inet(_));
            is_tcp && sockets.contains_key(&found.inode) && !shared.contains(&found.inode)
        };
        let has_own = machine.as_ref().ok().map(|all| all.iter().any(own));
        // Of another server than HAProxy all that it listens on is its traffic.
        let all = machine.as_ref().ok().filter(|_| generation.scope == ProcessScope::All).into_iter().flatten();
        let known = shared.iter().copied().chain(stats).chain(all.map(|found| found.inode));
        let known = known.filter_map(|inode| Some((inode, *sockets.get(&inode)?))).collect();
        Seen { known, has_own }
    }

    fn are_held(&self) -> bool {
        self.known.iter().any(|(inode, owner)| process::socket_at(*owner) == Some(*inode))
    }
}

/// Follows the abandoned generation, the last among the draining ones, until it has reacted; kills it when it does not.
async fn follow(supervisor: &mut Supervisor, seen: &Seen, recorder: &mut Recorder) {
    let Some(generation) = supervisor.draining.last() else { return };
    if reacts(generation, seen).await {
        if seen.has_own != Some(false) {
            recorder
                .note("the abandoned generation had bound sockets of its own: what was queued on them is not known");
            recorder.receipt().lost.abandoned = None;
        }
        return;
    }
    recorder.receipt().lost.abandoned = generation.open_connections();
    let pid = generation.process.pid();
    recorder.note(format!("the abandoned generation (process {pid}) did not react and was killed"));
    generation.kill().await;
    supervisor.reap_draining();
}

/// True when it ends, or closes the listeners it was seen with.
async fn reacts(generation: &Generation, seen: &Seen) -> bool {
    let deadline = Instant::now() + REACTION_TIME;
    loop {
        if generation.process.try_ended().is_some() || (!seen.known.is_empty() && !seen.are_held()) {
            return true;
        }
        if Instant::now() >= deadline {
            return !seen.are_held() && !generation.tree().into_iter().any(process::is_stopped);
        }
        tokio::select! {
            _ = generation.process.ended() => return true,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
    }
}

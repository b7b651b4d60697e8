//! Gives up a generation that failed. It may already accept, so it is drained, and killed only when it no longer reacts.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::recorder::Recorder;
use crate::listener::Endpoint;
use crate::process;
use crate::supervision::Generation;
use crate::supervision::Supervisor;

/// How long an abandoned generation may go on listening after it was told to drain.
const REACTION_TIME: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Drains the generation that was being started, if any.
pub(crate) async fn abandon(supervisor: &mut Supervisor, recorder: &mut Recorder) {
    let Some(mut generation) = supervisor.starting.take() else { return };
    recorder.receipt().new = None;
    if generation.process.try_ended().is_some() {
        generation.clean_up();
        supervisor.store_records();
        return;
    }
    generation.listeners = supervisor.present_listeners();
    let shared: HashSet<u64> = supervisor.custody.held().iter().map(|held| held.listener.inode).collect();
    log::warn!("generation {} (process {}) is abandoned: it drains", generation.number, generation.process.pid());
    if drains(&generation, &shared).await {
        supervisor.drain_abandoned(generation);
        return;
    }
    let endpoints: Vec<Endpoint> = generation.listeners.iter().map(|owned| owned.listener.endpoint.clone()).collect();
    let accepted = crate::supervision::open_connections(generation.process.pid(), &endpoints);
    recorder.receipt().lost.abandoned = accepted;
    recorder
        .note(format!("the abandoned generation (process {}) did not react and was killed", generation.process.pid()));
    // The whole tree: a worker whose master was killed may otherwise go on accepting.
    for pid in generation.tree().into_iter().filter(|pid| *pid != generation.process.pid()) {
        if let Some(start_time) = process::start_time(pid) {
            process::kill_if_same(pid, start_time, Signal::KILL);
        }
    }
    generation.process.signal(Signal::KILL);
    generation.process.ended().await;
    generation.clean_up();
    supervisor.store_records();
}

/// Tells it to drain; true when it reacts: it ends, or closes the sockets it shares.
async fn drains(generation: &Generation, shared: &HashSet<u64>) -> bool {
    let shares = || process::sockets_of(&generation.tree()).keys().any(|inode| shared.contains(inode));
    let shared_before = shares();
    generation.process.signal(Signal::USR1);
    let deadline = Instant::now() + REACTION_TIME;
    loop {
        if generation.process.try_ended().is_some() || (shared_before && !shares()) {
            return true;
        }
        if Instant::now() >= deadline {
            return !shares() && !is_stopped(generation);
        }
        tokio::select! {
            _ = generation.process.ended() => return true,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

fn is_stopped(generation: &Generation) -> bool {
    generation.tree().into_iter().any(process::is_stopped)
}

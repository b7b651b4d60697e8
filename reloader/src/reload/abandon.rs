//! Gives up a generation that failed. It may already accept, so it is drained, and killed only when it no longer reacts.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::recorder::Recorder;
use crate::kernel::sock_diag;
use crate::process;
use crate::supervision::{Generation, Supervisor};

/// How long an abandoned generation may go on listening after it was told to drain.
const REACTION_TIME: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Drains the generation that was being started, if any.
pub(crate) async fn abandon(supervisor: &mut Supervisor, recorder: &mut Recorder) {
    let Some(mut generation) = supervisor.starting.take() else { return };
    recorder.receipt().new = None;
    if generation.process.try_ended().is_some() {
        generation.clean_up();
        supervisor.record_or_log();
        return;
    }
    generation.listeners = supervisor.present_listeners();
    let shared: HashSet<u64> = supervisor.custody.held().iter().map(|held| held.listener.inode).collect();
    let own = sockets_of_its_own(&generation, &shared);
    log::warn!("generation {} (process {}) is abandoned: it drains", generation.number, generation.process.pid());
    if drains(&generation).await {
        if own != Some(false) {
            recorder
                .note("the abandoned generation had bound sockets of its own: what was queued on them is not known");
            recorder.receipt().lost.abandoned = None;
        }
        supervisor.begin_draining(generation);
        return;
    }
    recorder.receipt().lost.abandoned = generation.open_connections();
    recorder
        .note(format!("the abandoned generation (process {}) did not react and was killed", generation.process.pid()));
    generation.kill().await;
    generation.clean_up();
    supervisor.record_or_log();
}

/// Whether it listens on a traffic socket that custody does not share; `None` when the kernel does not say.
fn sockets_of_its_own(generation: &Generation, shared: &HashSet<u64>) -> Option<bool> {
    let sockets = process::sockets_of(&generation.tree());
    let machine = sock_diag::tcp_listeners().ok()?;
    Some(machine.iter().any(|found| sockets.contains_key(&found.inode) && !shared.contains(&found.inode)))
}

/// Tells it to drain; true when it reacts: it ends, or closes its listeners.
async fn drains(generation: &Generation) -> bool {
    let listened_before = generation.listens();
    generation.process.signal(Signal::USR1);
    let deadline = Instant::now() + REACTION_TIME;
    loop {
        if generation.process.try_ended().is_some() || (listened_before && !generation.listens()) {
            return true;
        }
        if Instant::now() >= deadline {
            return !generation.listens() && !is_stopped(generation);
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

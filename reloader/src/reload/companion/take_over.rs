//! Another worker serves: what became of the old one's listeners, and what is done about those that it did not get.

use std::time::{Duration, Instant};

use crate::config::Strategy;
use crate::fs::generation_files::GenerationFiles;
use crate::haproxy::inspect::UNEXPORTED;
use crate::haproxy::launch::label;
use crate::haproxy::master::Found;
use crate::haproxy::scan;
use crate::haproxy::version::Version;
use crate::model::listener::{Owned, Role};
use crate::process::{self, Handle, ProcessScope};
use crate::receipt::{Failure, Recorder};
use crate::reload::held;
use crate::reload::protection::Protection;
use crate::reload::reserved::ReservedGroups;
use crate::reload::retire::{retire, stopped_listening};
use crate::reload::run::{find_stranger, judged};
use crate::reload::steered;
use crate::reload::verdict::Verdict;
use crate::sockets::inspection::Inspection;
use crate::supervision::{Generation, Supervisor};

use super::guard::migrates;

/// Said in place of [`UNEXPORTED`]: the next worker gets its sockets from HAProxy itself.
const UNSEEN: &str = "its stats socket does not export listeners: those in other network namespaces are not known, and no receipt says \
    anything of them; add `expose-fd listeners` to it if there are any";

/// An old worker that is told to stop closes its listeners within this time, or it hangs.
const LETS_GO: Duration = Duration::from_millis(50);

/// The old worker may answer in the new one's place as long as it has not closed the stats socket that they share.
const LOOKS: u32 = 5;
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Makes the worker the serving generation. `old` are the listeners from before, of a worker or of custody.
pub(super) async fn take_over(
    supervisor: &mut Supervisor,
    found: &Found,
    old: &[Owned],
    recorder: &mut Recorder,
    guards: &mut Protection,
    tell: &dyn Fn(&str),
) -> Result<(), Failure> {
    let generation = generation(supervisor, found)?;
    recorder.receipt().new = Some(generation.id());
    supervisor.starting = Some(generation);
    old_lets_go(supervisor).await;

    tell("confirming its listeners");
    let inspection = look(supervisor, found, recorder).await?;
    if let Some(stranger) = find_stranger(supervisor, &inspection, old) {
        recorder.receipt().reason = Some(stranger);
    }
    let verdicts = judged(supervisor, old, &inspection);
    recorder.phase(|phases| &mut phases.confirm);

    if steer(supervisor, &inspection, &verdicts, recorder, guards) {
        let before = recorder.receipt().phases_us.guard;
        recorder.phase(|phases| &mut phases.guard);
        let guard = &mut recorder.receipt().phases_us.guard;
        *guard = guard.map(|time| time + before.unwrap_or_default());
    }
    // What the old one did not hand over is closed here: it is the daemon's alone by now.
    let closed = retire(supervisor, inspection, verdicts, recorder).await;
    recorder.phase(|phases| &mut phases.retire);
    guards.after_close(closed).await;
    std::mem::take(guards).release(supervisor, recorder, tell).await;
    Ok(())
}

/// The worker as a generation, and its master as the one to ask from now on.
pub(super) fn generation(supervisor: &mut Supervisor, found: &Found) -> Result<Generation, Failure> {
    let adopt = |pid: u32| process::start_time(pid).and_then(|start_time| Handle::adopt(pid, start_time));
    let (Some(master), Some(worker)) = (adopt(found.master), adopt(found.worker)) else {
        return Err(Failure::new(format!("the new worker (process {}) ended at once", found.worker)));
    };
    // One that did not answer when the daemon started was taken for a retired one.
    supervisor.draining.retain(|draining| draining.process.pid() != found.worker);
    let number = supervisor.take_number();
    let Some(companion) = &mut supervisor.companion else { return Err(Failure::new("internal error: no companion")) };
    companion.master = Some(master);
    companion.absent = None;
    companion.version = Version::from_words(&found.version);
    let sources = scan::read(&companion.haproxy.config).unwrap_or_default();
    let facts = scan::facts(&sources);
    companion.sockets = facts.stats_sockets;
    if !companion.sockets.contains(&found.socket) {
        companion.sockets.push(found.socket.clone());
    }
    let files = GenerationFiles { overlay: Default::default(), socket: found.socket.clone(), log: Default::default() };
    let config = label(&companion.haproxy.config);
    let mut generation = Generation::started(number, worker, ProcessScope::SameProgram, files, config);
    (generation.files, generation.log, generation.noreuseport) = (None, None, facts.noreuseport);
    Ok(generation)
}

/// The master has told the old worker to stop; until it has, it may answer on the stats socket too. One that hangs is not waited
/// for: what comes to sockets that only it and the daemon have waits as well.
async fn old_lets_go(supervisor: &Supervisor) {
    if let Some(old) = &supervisor.serving {
        stopped_listening(&old.process, &supervisor.custody, LETS_GO).await;
    }
}

/// What could not be seen, or taken.
pub(super) fn note(inspection: &Inspection, recorder: &mut Recorder) {
    for note in &inspection.notes {
        recorder.note(if note == UNEXPORTED { UNSEEN } else { note });
    }
}

async fn look(supervisor: &mut Supervisor, found: &Found, recorder: &mut Recorder) -> Result<Inspection, Failure> {
    let Some(process) = supervisor.starting.as_ref().map(|new| new.process.clone()) else {
        return Err(Failure::new("internal error: no worker is being taken over"));
    };
    let place = supervisor.place.clone();
    let mut looks = 0;
    loop {
        let inspected = supervisor.server.inspect(&process, &found.socket, &place).await;
        looks += 1;
        match inspected {
            Ok(mut inspection) if inspection.doubt.is_none() || looks >= LOOKS => {
                // It serves, whatever cannot be proven of it.
                if let Some(doubt) = inspection.doubt.take() {
                    recorder.receipt().reason = Some(doubt);
                }
                note(&inspection, recorder);
                if !inspection.owned.iter().any(|owned| owned.role == Role::Traffic) {
                    let why = "HAProxy's configuration has no listener for traffic (an empty or half-written file?)";
                    recorder.receipt().reason = Some(why.into());
                }
                return Ok(inspection);
            }
            Err(error) if looks >= LOOKS => {
                supervisor.starting = None;
                return Err(Failure::new(format!("another worker (process {}) serves, but {error}", found.worker)));
            }
            _ => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

/// What is queued on sockets that only the daemon has by now moves over to the new worker's. False where there is no need, or no
/// means. What is held was drained before: a listener has one guard, and both at once were seen to cost a connection now and then. A
/// hold that is over guards nothing.
fn steer(
    supervisor: &mut Supervisor,
    inspection: &Inspection,
    verdicts: &[Verdict],
    recorder: &mut Recorder,
    guards: &mut Protection,
) -> bool {
    let at_risk = held::at_risk(verdicts);
    let wanted = matches!(supervisor.config.reload.strategy, Strategy::Auto | Strategy::Steer);
    let is_held = guards.held.as_ref().is_some_and(|held| held.ends() > Instant::now());
    if at_risk.is_empty() || !wanted || is_held || !migrates(supervisor) {
        return false;
    }
    // The master started it: nothing was reserved.
    let nothing = &mut ReservedGroups::default();
    (guards.steered, _) = steered::begin(supervisor, at_risk, &inspection.custody, nothing, recorder);
    guards.steered.is_some()
}

//! Takes over another worker that serves: judges the old one's listeners, and protects those that the new one did not get.

use std::time::{Duration, Instant};

use crate::config::Strategy;
use crate::fs::generation_files::GenerationFiles;
use crate::haproxy::inspect::UNEXPORTED;
use crate::haproxy::launch::label;
use crate::haproxy::master::Found;
use crate::haproxy::scan;
use crate::haproxy::version::Version;
use crate::model::listener::{Owned, Role};
use crate::process::{self, Handle, ProcessScope, run_blocking};
use crate::receipt::{Failure, Kind, ReasonCode, Recorder};
use crate::reload::attempt::Attempt;
use crate::reload::protection::held;
use crate::reload::steps::prove::{find_foreign_listener, verdicts};
use crate::reload::steps::retire::stopped_listening;
use crate::reload::verdict::Verdict;
use crate::server::Worker;
use crate::sockets::inspection::Inspection;
use crate::supervision::{Generation, Supervisor};

/// Said in place of [`UNEXPORTED`]: the next worker gets its sockets from HAProxy itself.
const UNSEEN: &str = "its stats socket does not export listeners: those in other network namespaces are not known, and no receipt says \
    anything of them; add `expose-fd listeners` to it if there are any";

/// An old worker that is told to stop closes its listeners within this time, or it hangs.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(50);

/// How long ago a master may have retired its worker when the daemon notices it: after a reload that the daemon asked for, and otherwise.
const ASKED_NOTICE: Duration = Duration::from_millis(250);
const UNASKED_NOTICE: Duration = Duration::from_millis(1500);

/// The old worker may answer in the new one's place as long as it has not closed the stats socket that they share.
const LOOKS: u32 = 5;
const POLL_INTERVAL: Duration = Duration::from_millis(20);

impl Attempt<'_> {
    /// Makes the worker the serving generation. `old` are the listeners from before, of a worker or of custody.
    pub(super) async fn take_over(&mut self, found: &Found, old: &[Owned]) -> Result<(), Failure> {
        let noticed_after = match self.recorder.receipt().kind {
            Kind::Reload => ASKED_NOTICE,
            _ => UNASKED_NOTICE,
        };
        self.supervisor.note_retirement_by_master(Instant::now().checked_sub(noticed_after));
        let generation = generation(self.supervisor, found).await?;
        self.recorder.receipt().new = Some(generation.id());
        self.supervisor.begin_start(generation);
        await_old_close(self.supervisor).await;
        self.tell("confirming its listeners");
        let inspection = self.inspect_worker(found).await?;
        if let Some(sentence) = find_foreign_listener(self.supervisor, &inspection, old) {
            self.recorder.doubt(ReasonCode::ForeignListener, sentence);
        }
        let unreachable = self.supervisor.unreachable_now(&inspection).await;
        let verdicts = verdicts(self.supervisor, old, &inspection, &unreachable);
        self.recorder.phase(|phases| &mut phases.confirm);
        if self.steer_what_changed(&inspection, &verdicts).await {
            let before = self.recorder.receipt().phases_us.guard;
            self.recorder.phase(|phases| &mut phases.guard);
            let guard = &mut self.recorder.receipt().phases_us.guard;
            *guard = guard.map(|time| time + before.unwrap_or_default());
        }
        // What the old one did not hand over is closed here: it is the daemon's alone by now.
        let closed = self.retire(inspection, verdicts).await;
        self.recorder.phase(|phases| &mut phases.retire);
        let heartbeat = self.supervisor.heartbeat();
        heartbeat.during(self.protection.after_close(closed)).await;
        self.release().await;
        Ok(())
    }

    /// Inspects the worker, which serves already. So a doubt does not end the attempt.
    async fn inspect_worker(&mut self, found: &Found) -> Result<Inspection, Failure> {
        let Some(process) = self.supervisor.generations().starting().map(|new| new.process.clone()) else {
            return Err(Failure::internal("no worker is being taken over"));
        };
        let mut looks = 0;
        loop {
            let inspected = self.supervisor.inspect(&process, &found.socket).await;
            looks += 1;
            match inspected {
                Ok(inspection) if inspection.doubt.is_none() || looks >= LOOKS => {
                    return Ok(self.note_inspection(inspection));
                }
                Err(error) if looks >= LOOKS => {
                    self.supervisor.take_starting();
                    let reason = format!("another worker (process {}) serves, but {error}", found.worker);
                    return Err(Failure::new(ReasonCode::InspectionFailed, reason));
                }
                _ => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }

    fn note_inspection(&mut self, mut inspection: Inspection) -> Inspection {
        if let Some(doubt) = inspection.doubt.take() {
            self.recorder.doubt(ReasonCode::InspectionFailed, doubt);
        }
        note(&inspection, &mut self.recorder);
        if !inspection.owned.iter().any(|owned| owned.role == Role::Traffic) {
            let why = "HAProxy's configuration has no listener for traffic (an empty or half-written file?)";
            self.recorder.doubt(ReasonCode::NoTrafficListener, why);
        }
        inspection
    }

    /// Moves what is queued on sockets that only the daemon still has to the sockets of the new worker. False where there is nothing to move, or
    /// it cannot be moved. Nothing is steered while a hold is in force. What is held was drained before, and a listener has one protection: both
    /// at once were seen to cost a connection now and then. A hold that is over protects nothing.
    async fn steer_what_changed(&mut self, inspection: &Inspection, verdicts: &[Verdict]) -> bool {
        let at_risk = held::at_risk(verdicts);
        let wanted = matches!(self.supervisor.config().reload.strategy, Strategy::Auto | Strategy::Steer);
        let is_held = self.protection.held.as_ref().is_some_and(|held| held.ends() > Instant::now());
        if at_risk.is_empty() || !wanted || is_held || !self.migrates().await {
            return false;
        }
        self.steer(at_risk, &inspection.custody).await;
        self.protection.steered.is_some()
    }
}

/// The worker as a generation, and its master as the one to ask from now on.
pub(super) async fn generation(supervisor: &mut Supervisor, found: &Found) -> Result<Generation, Failure> {
    let adopt = |pid: u32| process::start_time(pid).and_then(|start_time| Handle::adopt(pid, start_time));
    let (Some(master), Some(worker)) = (adopt(found.master), adopt(found.worker)) else {
        let reason = format!("the new worker (process {}) ended at once", found.worker);
        return Err(Failure::new(ReasonCode::WorkerFailed, reason));
    };
    let Some(companion) = supervisor.server().companion() else { return Err(Failure::internal("no companion")) };
    let files = companion.config().config.clone();
    let config = label(&files);
    let facts = run_blocking(move || scan::facts(&scan::read(&files).unwrap_or_default())).await;
    let mut sockets = facts.stats_sockets;
    if !sockets.contains(&found.socket) {
        sockets.push(found.socket.clone());
    }
    let version = Version::from_words(&found.version);
    supervisor.set_worker(found.worker, Worker { master, version, sockets });
    let number = supervisor.take_number();
    let files = GenerationFiles { overlay: Default::default(), socket: found.socket.clone(), log: Default::default() };
    let mut generation = Generation::started(number, worker, ProcessScope::SameProgram, files, config);
    (generation.files, generation.log, generation.noreuseport) = (None, None, facts.noreuseport);
    generation.drain_times = facts.drain_times;
    Ok(generation)
}

/// Waits until the old worker has closed its listeners, as its master told it to. Until then it may answer on the stats socket too. The wait for
/// a worker that hangs is short: connections to sockets that only this worker and the daemon have wait as long.
async fn await_old_close(supervisor: &Supervisor) {
    if let Some(old) = supervisor.serving() {
        stopped_listening(&old.process, supervisor.custody(), CLOSE_TIMEOUT).await;
    }
}

/// Notes what could not be seen, and which sockets could not be taken into custody.
pub(super) fn note(inspection: &Inspection, recorder: &mut Recorder) {
    for note in &inspection.notes {
        recorder.note(if note == UNEXPORTED { UNSEEN } else { note });
    }
}

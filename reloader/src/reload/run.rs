//! The two phases: start without retiring, prove, then retire.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::abandon::abandon;
use super::companion;
use super::count;
use super::protection::Protection;
use super::replace;
use super::retire::retire;
use super::start;
use super::verdict::{self, Verdict};
use crate::config::Require;
use crate::kernel::sock_diag::ListenSocket;
use crate::model::listener::{Owned, Role};
use crate::plan;
use crate::process;
use crate::receipt::{Failure, Recorder};
use crate::receipt::{Kind, ListenerReceipt, Outcome, Receipt, judge};
use crate::server::Prepared;
use crate::sockets::inspection::Inspection;
use crate::supervision::{Generation, Supervisor};

/// How long a process that no longer answers may take to end, before it is called silent.
const ENDING: Duration = Duration::from_millis(200);

/// What is asked of a reload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReloadRequest {
    /// Why a new generation is wanted.
    pub(crate) kind: Kind,
    /// When it was asked for.
    pub(crate) asked: Instant,
    /// Further requests that it answers too.
    pub(crate) coalesced: u64,
    /// Start from the last-known-good configuration instead of the one on disk.
    pub(crate) use_known_good: bool,
}

/// Runs a reload to its receipt. Whatever fails, the generation that served before goes on serving; where it had to make room
/// first, the last-known-good one serves, or nobody (`replace`).
pub(crate) async fn run(supervisor: &mut Supervisor, ask: ReloadRequest, tell: &dyn Fn(&str)) -> Receipt {
    let old = supervisor.serving.as_ref().map(Generation::id);
    let mut recorder = Recorder::begin(Some(&supervisor.name), ask.kind, ask.asked, ask.coalesced, old);
    count::begin(supervisor, &mut recorder);
    let mut guards = Protection::default();
    let outcome = two_phases(supervisor, ask, &mut recorder, &mut guards, tell).await;
    if let Err(failure) = &outcome {
        supervisor.start_timed_out = failure.ends_custody;
        let patience = supervisor.config.reload.drain_timeout;
        supervisor.board.with_heartbeat(&supervisor.name, guards.roll_back(patience)).await;
        abandon(supervisor, failure.ends_custody, &mut recorder).await;
    }
    // What was begun under a guard is abandoned under it.
    guards.release(supervisor, &mut recorder, tell).await;
    count::end(supervisor, &mut recorder);
    recorder.receipt().nothing_serves = outcome.is_err() && !supervisor.serves();
    supervisor.publish();
    recorder.finish(outcome)
}

async fn two_phases(
    supervisor: &mut Supervisor,
    ask: ReloadRequest,
    recorder: &mut Recorder,
    guards: &mut Protection,
    tell: &dyn Fn(&str),
) -> Result<(), Failure> {
    if supervisor.companion.is_some() {
        return companion::run(supervisor, recorder, guards, tell).await;
    }
    let prepared = start::prepare(supervisor, ask.use_known_good)?;
    match prepared.ends_by_reload.clone() {
        Some(sentence) if supervisor.is_served() => return Err(Failure::new(sentence)),
        // Nothing runs that it could end.
        sentence => recorder.receipt().notes.extend(sentence),
    }
    look_again(supervisor).await;
    refuse_unproven_plan(supervisor, &prepared)?;
    if replace::is_needed(supervisor, &prepared) {
        return replace::run(supervisor, ask, &prepared, recorder, guards, tell).await;
    }
    recorder.phase(|phases| &mut phases.plan);

    guards.link_paths(supervisor, recorder);
    guards.reserve(supervisor, &prepared);
    tell("starting the new generation");
    start::start(supervisor, &prepared, Duration::MAX, recorder).await?;
    recorder.phase(|phases| &mut phases.start);

    tell("confirming its listeners");
    let old = supervisor.present_listeners();
    let (inspection, verdicts) = prove(supervisor, ask, &old, recorder).await?;
    recorder.phase(|phases| &mut phases.confirm);

    guards.install(supervisor, &inspection, &old, &verdicts, recorder, tell).await;
    refuse_unproven(supervisor, ask, &verdicts, guards, recorder)?;

    tell("retiring the old generation");
    let is_retiring = supervisor.is_served();
    still_there(supervisor)?;
    record_handover(supervisor).await?;
    guards.open_to_new_generation(supervisor);
    let closed = retire(supervisor, inspection, verdicts, recorder).await;
    if is_retiring && let Some(loss) = prepared.retires_with_loss() {
        recorder.note(loss);
    }
    recorder.phase(|phases| &mut phases.retire);
    supervisor.board.with_heartbeat(&supervisor.name, guards.after_close(closed)).await;
    std::mem::take(guards).release(supervisor, recorder, tell).await;
    start::keep_as_known_good(supervisor, &prepared, recorder);
    Ok(())
}

/// A server that binds its sockets itself may have others than when it was looked at.
async fn look_again(supervisor: &mut Supervisor) {
    let Some(serving) = supervisor.serving.as_ref().filter(|_| supervisor.server.haproxy().is_none()) else { return };
    let (process, socket, place) = (serving.process.clone(), serving.socket.clone(), supervisor.place.clone());
    let inspection = match supervisor.server.inspect(&process, &socket, &place).await {
        Ok(inspection) => inspection,
        Err(error) => return log::warn!("what process {} listens on could not be looked at: {error}", process.pid()),
    };
    let mut custody = inspection.custody;
    custody.complete_from(supervisor.custody.kept(), &inspection.sockets);
    supervisor.limit_custody(&mut custody);
    supervisor.custody = custody;
    if let Some(serving) = &mut supervisor.serving {
        serving.listeners = inspection.owned;
        serving.note_worker_processes(&inspection.sockets);
    }
}

/// With `require = "proven"` the old generation is not touched while anything speaks against the proof.
fn refuse_unproven(
    supervisor: &Supervisor,
    ask: ReloadRequest,
    verdicts: &[Verdict],
    guards: &Protection,
    recorder: &mut Recorder,
) -> Result<(), Failure> {
    if supervisor.config.reload.require != Require::Proven || must_serve(supervisor, ask) {
        return Ok(());
    }
    let receipts: Vec<ListenerReceipt> = verdicts.iter().map(|verdict| verdict.receipt.clone()).collect();
    let is_guarded = |entry: &&ListenerReceipt| guards.protects(entry.inode_before);
    let open: Vec<ListenerReceipt> = receipts.iter().filter(|entry| !is_guarded(entry)).cloned().collect();
    let (outcome, reason) = judge(&open);
    let reason = match outcome {
        Outcome::Proven => guards.doubts(),
        _ => Some(reason.unwrap_or_default()),
    };
    let Some(reason) = reason else { return Ok(()) };
    recorder.receipt().listeners = receipts;
    Err(Failure::new(format!("require = \"proven\", and there is no proof for {reason}")))
}

/// What served before has ended, so nobody else serves: better unproven, or shared with a stranger, than nothing.
fn must_serve(supervisor: &Supervisor, ask: ReloadRequest) -> bool {
    ask.kind != Kind::Start && !supervisor.is_served()
}

/// What was seen of the new generation was seen on a living process, and it lives at the last moment before the old one
/// is told to drain.
fn still_there(supervisor: &mut Supervisor) -> Result<(), Failure> {
    match supervisor.starting.as_ref().and_then(|new| new.process.try_ended()) {
        Some(ended) => Err(start::failure(supervisor, format!("the new generation {ended} before it was proven"))),
        None => Ok(()),
    }
}

async fn record_handover(supervisor: &Supervisor) -> Result<(), Failure> {
    match supervisor.record_handover().await {
        Ok(()) => Ok(()),
        Err(error) if supervisor.is_served() => {
            let place = supervisor.place.display();
            Err(Failure::new(format!("the handover cannot be recorded in {place}: {error}; make room there")))
        }
        // With nothing to retire there is nothing to confuse: serving goes first.
        Err(error) => {
            log::error!("the handover cannot be recorded: {error}");
            Ok(())
        }
    }
}

/// With `require = "proven"` a reload that cannot be proven is refused before anything is started. When nothing serves
/// there is nothing to lose by going on.
fn refuse_unproven_plan(supervisor: &Supervisor, prepared: &Prepared) -> Result<(), Failure> {
    if supervisor.config.reload.require != Require::Proven || !supervisor.is_served() {
        return Ok(());
    }
    match plan::unproven(&supervisor.plan(&prepared.capabilities)) {
        Some(why) => Err(Failure::new(format!("require = \"proven\", and the plan cannot prove {why}"))),
        None => Ok(()),
    }
}

pub(super) async fn prove(
    supervisor: &mut Supervisor,
    ask: ReloadRequest,
    old: &[Owned],
    recorder: &mut Recorder,
) -> Result<(Inspection, Vec<Verdict>), Failure> {
    let new = supervisor.starting.as_ref().ok_or_else(|| Failure::new("internal error: no generation is starting"))?;
    recorder.receipt().new = Some(new.id());
    let (process, socket) = (new.process.clone(), new.socket.clone());
    let place = supervisor.place.clone();
    let inspected = supervisor.server.inspect(&process, &socket, &place).await;
    if inspected.as_ref().map_or(true, |inspection| inspection.doubt.is_some()) {
        // A process that ends closes its sockets first: whether that is the reason shows a moment later.
        let _ = tokio::time::timeout(ENDING, process.ended()).await;
    }
    still_there(supervisor)?;
    let unproven = |why: String| Failure::new(format!("the new generation cannot be proven: {why}"));
    let inspection = inspected.map_err(|error| unproven(error.to_string()))?;
    if let Some(doubt) = inspection.doubt {
        return Err(unproven(doubt));
    }
    inspection.notes.iter().for_each(|note| recorder.note(note));
    if let Some(lacks) = supervisor.server.missing_addresses(&inspection.owned) {
        return Err(unproven(lacks));
    }
    if !inspection.owned.iter().any(|owned| owned.role == Role::Traffic) {
        // HAProxy by itself refuses a configuration without a listener; only our stats socket lets it start.
        return Err(unproven("its configuration has no listener for traffic (an empty or half-written file?)".into()));
    }

    if let Some(stranger) = find_stranger(supervisor, &inspection, old) {
        if !must_serve(supervisor, ask) {
            return Err(Failure::new(stranger));
        }
        recorder.receipt().reason = Some(stranger);
    }
    let verdicts = judged(supervisor, old, &inspection);
    Ok((inspection, verdicts))
}

/// The verdicts, with what is known beyond the two lists of listeners.
pub(super) fn judged(supervisor: &Supervisor, old: &[Owned], inspection: &Inspection) -> Vec<Verdict> {
    let mut new = inspection.owned.clone();
    let listed: HashSet<u64> = new.iter().map(|owned| owned.listener.inode).collect();
    // What the new generation holds is passed, even where it could not be described again.
    let held = old.iter().filter(|owned| inspection.sockets.contains_key(&owned.listener.inode));
    new.extend(held.filter(|owned| !listed.contains(&owned.listener.inode)).cloned());
    let mut verdicts = verdict::verdicts(old, &new);
    if let (None, Some(unserved)) = (&supervisor.serving, &supervisor.refused_listeners) {
        let refused = unserved.since.elapsed();
        let is_unserved = |verdict: &&mut Verdict| {
            let before = verdict.receipt.inode_before;
            unserved.listeners.iter().any(|owned| Some(owned.listener.inode) == before)
        };
        verdicts.iter_mut().filter(is_unserved).for_each(|verdict| verdict.nobody_listened_for(refused));
    }
    verdicts
}

/// Another server on one of our addresses, as a sentence.
pub(super) fn find_stranger(supervisor: &Supervisor, inspection: &Inspection, old: &[Owned]) -> Option<String> {
    let ours: Vec<Owned> = old.iter().chain(&inspection.owned).cloned().collect();
    let mut known: HashSet<u64> = inspection.sockets.keys().copied().collect();
    known.extend(old.iter().map(|owned| owned.listener.inode));
    let suspects = verdict::foreign(&inspection.machine, &ours, &known);
    if suspects.is_empty() {
        return None;
    }
    let own_generations = supervisor.serving.iter().chain(&supervisor.draining);
    let own_processes: Vec<u32> = own_generations.flat_map(Generation::tree).collect();
    known.extend(process::sockets_of(&own_processes).keys());
    verdict::foreign(&suspects, &ours, &known).first().map(stranger_sentence)
}

fn stranger_sentence(socket: &ListenSocket) -> String {
    let owner = process::sockets_of(&process::pids()).get(&socket.inode).copied();
    let who = owner.map_or_else(
        || "a process that cannot be seen".into(),
        |owner| {
            let name = process::executable(owner.pid).map_or_else(String::new, |path| format!(" ({})", path.display()));
            format!("process {}{name}", owner.pid)
        },
    );
    format!(
        "foreign listener: {who} also listens on {}, so the kernel shares new connections out between it and the server; stop it and reload again",
        socket.address
    )
}

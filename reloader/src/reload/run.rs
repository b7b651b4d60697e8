//! The two phases: start without retiring, prove, then retire.

use std::collections::HashSet;
use std::time::Instant;

use super::abandon::abandon;
use super::confirm::{self, Verdict};
use super::count;
use super::plan;
use super::receipt::{Kind, Outcome, Receipt, judge};
use super::recorder::{Failure, Recorder};
use super::retire::retire;
use super::start::{self, Prepared};
use crate::config::Require;
use crate::haproxy::inspect::{Inspection, inspect};
use crate::kernel::sock_diag::ListenSocket;
use crate::listener::Owned;
use crate::process;
use crate::supervision::Generation;
use crate::supervision::Supervisor;

/// What is asked of a reload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    /// Why a new generation is wanted.
    pub(crate) kind: Kind,
    /// When it was asked for.
    pub(crate) asked: Instant,
    /// Further requests that it answers too.
    pub(crate) coalesced: u64,
    /// Start from the last-known-good configuration instead of the one on disk.
    pub(crate) use_known_good: bool,
}

/// Runs a reload to its receipt. Whatever fails, the generation that served before goes on serving.
pub(crate) async fn run(supervisor: &mut Supervisor, ask: Ask, tell: &dyn Fn(&str)) -> Receipt {
    let old = supervisor.serving.as_ref().map(Generation::id);
    let mut recorder = Recorder::begin(ask.kind, ask.asked, ask.coalesced, old);
    count::begin(supervisor, &mut recorder);
    let outcome = two_phases(supervisor, ask, &mut recorder, tell).await;
    if let Err(failure) = &outcome {
        abandon(supervisor, &mut recorder).await;
        if failure.ends_custody {
            supervisor.drop_custody();
        }
    }
    count::end(supervisor, &mut recorder);
    supervisor.publish();
    recorder.finish(outcome)
}

async fn two_phases(
    supervisor: &mut Supervisor,
    ask: Ask,
    recorder: &mut Recorder,
    tell: &dyn Fn(&str),
) -> Result<(), Failure> {
    let prepared = start::prepare(supervisor, ask.use_known_good)?;
    refuse_unproven_plan(supervisor, &prepared)?;
    recorder.phase(|phases| &mut phases.plan);

    tell("starting the new generation");
    start::start(supervisor, &prepared, recorder).await?;
    recorder.phase(|phases| &mut phases.start);

    tell("confirming its listeners");
    let (inspection, verdicts) = prove(supervisor, ask, recorder).await?;
    recorder.phase(|phases| &mut phases.confirm);

    tell("retiring the old generation");
    retire(supervisor, inspection, verdicts, recorder).await;
    recorder.phase(|phases| &mut phases.retire);

    start::keep_as_known_good(supervisor, &prepared, recorder);
    Ok(())
}

/// With `require = "proven"` a reload that cannot be proven is refused before anything is started.
fn refuse_unproven_plan(supervisor: &Supervisor, prepared: &Prepared) -> Result<(), Failure> {
    if supervisor.config.reload.require != Require::Proven {
        return Ok(());
    }
    match plan::unproven(&supervisor.plan(prepared.version)) {
        Some(why) => Err(Failure::new(format!("require = \"proven\", and the plan cannot prove {why}"))),
        None => Ok(()),
    }
}

async fn prove(
    supervisor: &mut Supervisor,
    ask: Ask,
    recorder: &mut Recorder,
) -> Result<(Inspection, Vec<Verdict>), Failure> {
    let new = supervisor.starting.as_ref().ok_or_else(|| Failure::new("internal error: no generation is starting"))?;
    recorder.receipt().new = Some(new.id());
    let (root, socket) = (new.process.pid(), new.socket.clone());
    let inspected = inspect(root, socket, supervisor.config.runtime_dir.clone()).await;
    let inspection =
        inspected.map_err(|error| Failure::new(format!("the new generation cannot be proven: {error}")))?;
    inspection.notes.iter().for_each(|note| recorder.note(note));

    let old = supervisor.present_listeners();
    if let Some(stranger) = find_stranger(supervisor, &inspection, &old) {
        // After a crash nobody else serves: better shared with a stranger, and said, than nothing.
        if ask.kind == Kind::Restart {
            recorder.receipt().reason = Some(stranger);
        } else {
            return Err(Failure::new(stranger));
        }
    }
    let verdicts = confirm::verdicts(&old, &inspection.owned);
    let receipts: Vec<_> = verdicts.iter().map(|verdict| verdict.receipt.clone()).collect();
    if supervisor.config.reload.require == Require::Proven && ask.kind != Kind::Restart {
        let (outcome, reason) = judge(&receipts);
        if outcome != Outcome::Proven {
            recorder.receipt().listeners = receipts;
            let reason = reason.unwrap_or_default();
            return Err(Failure::new(format!("require = \"proven\", and there is no proof for {reason}")));
        }
    }
    Ok((inspection, verdicts))
}

/// Another server on one of our addresses, as a sentence.
fn find_stranger(supervisor: &Supervisor, inspection: &Inspection, old: &[Owned]) -> Option<String> {
    let ours: Vec<Owned> = old.iter().chain(&inspection.owned).cloned().collect();
    let mut known: HashSet<u64> = inspection.sockets.keys().copied().collect();
    known.extend(old.iter().map(|owned| owned.listener.inode));
    let suspects = confirm::foreign(&inspection.machine, &ours, &known);
    if suspects.is_empty() {
        return None;
    }
    let own_generations = supervisor.serving.iter().chain(&supervisor.draining);
    let own_processes: Vec<u32> = own_generations.flat_map(Generation::tree).collect();
    known.extend(process::sockets_of(&own_processes).keys());
    confirm::foreign(&suspects, &ours, &known).first().map(stranger_sentence)
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
        "foreign listener: {who} also listens on {}, so the kernel shares new connections out between it and HAProxy; stop it and reload again",
        socket.address
    )
}

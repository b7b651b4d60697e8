//! A reload whose generations cannot be bound beside each other (`noreuseport`): the old one makes room while SYNs are held,
//! and when the new one fails, the last-known-good one is started under the same hold.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::abandon::abandon;
use super::held::{self, HeldListeners};
use super::protection::Protection;
use super::retire::{retire, stopped_listening};
use super::run::{ReloadRequest, prove};
use super::start;
use super::stop_listening::{Closed, OldListeners};
use crate::config::{Require, Strategy};
use crate::model::listener::{Address, Listener, Owned};
use crate::plan::keeps_tcp_back;
use crate::receipt::{Failure, Recorder};
use crate::server::Prepared;
use crate::supervision::Supervisor;

const ENDED: &str = "the serving generation ended before the new one was started; another is started now";

/// How often the daemon does what is due while HAProxy checks its configuration.
const PULSE: Duration = Duration::from_secs(1);

/// Whether the new generation can bind its listeners only after the old one has closed its own: neither is it given all of them, nor
/// can they be bound twice. An abstract name never can.
pub(crate) fn is_needed(supervisor: &Supervisor, prepared: &Prepared) -> bool {
    let Some(serving) = supervisor.serving.as_ref().filter(|_| supervisor.is_served()) else { return false };
    let strategy = supervisor.config.reload.strategy;
    if strategy == Strategy::FdPass && supervisor.server.haproxy().is_some() {
        return false;
    }
    let alone = prepared.binds_alone || serving.noreuseport;
    let passes = prepared.capabilities.why_not_passed.is_none();
    let given: HashSet<u64> = supervisor.custody.kept().iter().map(|held| held.listener.inode).collect();
    let is_in_the_way = |listener: &Listener| {
        let in_custody = given.contains(&listener.inode);
        if let Some(blocks) = supervisor.server.is_blocked_by(&listener.endpoint, in_custody) {
            return alone && blocks;
        }
        let is_given = passes && in_custody;
        match listener.endpoint.address {
            Address::Abstract(_) => !is_given,
            _ => alone && listener.endpoint.is_tcp_here() && (!is_given || keeps_tcp_back(strategy)),
        }
    };
    serving.listeners.iter().any(|owned| is_in_the_way(&owned.listener))
}

/// Runs it. Up to the moment when the old generation is told to make room, every failure leaves it serving. What fails after
/// that does so under the hold, which the caller ends.
pub(crate) async fn run(
    supervisor: &mut Supervisor,
    ask: ReloadRequest,
    prepared: &Prepared,
    recorder: &mut Recorder,
    guards: &mut Protection,
    tell: &dyn Fn(&str),
) -> Result<(), Failure> {
    tell("checking the configuration");
    check(supervisor).await?;
    let old = supervisor.present_listeners();
    recorder.phase(|phases| &mut phases.plan);

    tell("holding SYNs");
    guards.held = guard(supervisor, &old, recorder).await;
    refuse_unproven(supervisor, guards.held.as_ref())?;

    still_serves(supervisor)?;
    tell("replacing the old generation");
    replace(supervisor, ask, prepared, &old, guards.held.as_mut(), recorder).await?;
    std::mem::take(guards).release(supervisor, recorder, tell).await;
    start::keep_as_known_good(supervisor, prepared, recorder);
    Ok(())
}

/// The configuration is read twice here: it must not be found wanting when nobody serves any more.
pub(super) async fn check(supervisor: &mut Supervisor) -> Result<(), Failure> {
    let Some(check) = supervisor.check() else { return Ok(()) };
    let patience = supervisor.config.reload.start_timeout;
    let mut stopping = supervisor.stopping.clone();
    let serving = supervisor.serving.as_ref().map(|serving| serving.process.clone());
    let ended = async {
        match &serving {
            Some(process) => process.ended().await,
            None => std::future::pending().await,
        }
    };
    let beats = async {
        let mut beat = tokio::time::interval(PULSE);
        loop {
            beat.tick().await;
            supervisor.tick();
        }
    };
    tokio::select! {
        checked = check.run() => checked
            .map_err(|server_log| Failure { server_log, ..Failure::new(format!("{} refuses the configuration", check.who)) }),
        _ = ended => Err(Failure::new(ENDED)),
        _ = stopping.wait_for(|stopping| *stopping) => Err(Failure::new("the daemon was asked to stop")),
        () = tokio::time::sleep(patience) => Err(Failure::new(format!(
            "the check of the configuration was not done within {}; raise start-timeout if it needs longer",
            humantime::format_duration(patience)
        ))),
        () = beats => Ok(()),
    }
}

/// What was held and drained were the listeners of a living generation, and they are at the last moment before it makes room:
/// otherwise their port has been refused, whatever was held since.
fn still_serves(supervisor: &Supervisor) -> Result<(), Failure> {
    if supervisor.is_served() && supervisor.custody.is_still_owned() { Ok(()) } else { Err(Failure::new(ENDED)) }
}

pub(super) async fn guard(supervisor: &Supervisor, old: &[Owned], recorder: &mut Recorder) -> Option<HeldListeners> {
    let ours: HashSet<u64> = old.iter().map(|owned| owned.listener.inode).collect();
    let listeners = old.iter().map(|owned| owned.listener.clone());
    let held = listeners.filter(|listener| listener.endpoint.is_tcp_here()).collect();
    let mut guarded = held::guard(supervisor, held, &ours, recorder).await?;
    recorder.phase(|phases| &mut phases.guard);
    // HAProxy finishes what it has accepted.
    guarded.drain(supervisor.server.haproxy().is_none()).await;
    recorder.phase(|phases| &mut phases.drain);
    Some(guarded)
}

pub(super) fn refuse_unproven(supervisor: &Supervisor, guarded: Option<&HeldListeners>) -> Result<(), Failure> {
    if supervisor.config.reload.require != Require::Proven {
        return Ok(());
    }
    let reason = match guarded {
        Some(guarded) => guarded.doubts(),
        None => Some("a listener, because no SYN can be held".into()),
    };
    reason
        .map_or(Ok(()), |reason| Err(Failure::new(format!("require = \"proven\", and there is no proof for {reason}"))))
}

async fn replace(
    supervisor: &mut Supervisor,
    ask: ReloadRequest,
    prepared: &Prepared,
    old: &[Owned],
    guarded: Option<&mut HeldListeners>,
    recorder: &mut Recorder,
) -> Result<(), Failure> {
    let held_until = guarded.as_ref().map(|guarded| guarded.ends());
    make_room(supervisor, old, guarded, recorder).await?;
    supervisor.fd_store.settle().await;
    recorder.phase(|phases| &mut phases.retire);
    // Without a last-known-good one there is no second try to leave time for.
    let held_until = held_until.filter(|_| supervisor.known_good.config().is_some());
    let patience =
        held_until.map_or(Duration::MAX, |end| first_try(end - Instant::now().min(end), supervisor.last_start));
    let Err(failure) = bring_up(supervisor, ask, prepared, old, patience, recorder).await else { return Ok(()) };
    abandon(supervisor, failure.ends_custody, recorder).await;
    let failure = second_chance(supervisor, ask, old, failure, recorder).await;
    if !supervisor.is_served() {
        supervisor.note_refused_listeners(old);
        supervisor.note_failed_starts();
    }
    Err(failure)
}

/// The old generation closes its listeners. An error where it serves on.
async fn make_room(
    supervisor: &mut Supervisor,
    old: &[Owned],
    mut guarded: Option<&mut HeldListeners>,
    recorder: &mut Recorder,
) -> Result<(), Failure> {
    let held_until = guarded.as_ref().map(|guarded| guarded.ends());
    let listeners: Vec<&Listener> = old.iter().map(|owned| &owned.listener).collect();
    let old_listeners = OldListeners::new(supervisor, &listeners);
    // Before it is on record: the next daemon retires it again from then on, and should this one die in between, its listeners must not
    // count for the guard.
    guarded.iter().for_each(|guarded| guarded.old_leaves());
    let Some((ending, listened)) = supervisor.vacate(held_until) else { return Ok(()) };
    supervisor.server.retire(&ending);
    let process = ending.process;
    let patience = patience(supervisor.config.reload.drain_timeout, held_until, supervisor.last_start);
    let closed = async {
        let began = Instant::now();
        match (stopped_listening(&process, &listened, patience).await, old_listeners) {
            (true, Some(listeners)) => listeners.stop(patience.saturating_sub(began.elapsed())).await,
            (true, None) => Closed::Gone,
            (false, _) => Closed::Attended,
        }
    };
    let closed = supervisor.board.with_heartbeat(&supervisor.name, closed).await;
    if closed == Closed::Gone {
        return Ok(());
    }
    if closed == Closed::Attended && supervisor.server.haproxy().is_none() && process.try_ended().is_none() {
        supervisor.reinstate(&process);
        guarded.iter().for_each(|guarded| guarded.old_stays());
        return Err(Failure::new(format!(
            "the serving generation (process {}) still has its listeners {} after it was asked to end, and may end yet: nothing \
             else was started; see `stop` of the service, or raise hold.max and drain-timeout",
            process.pid(),
            humantime::format_duration(patience)
        )));
    }
    guarded.iter_mut().for_each(|guarded| guarded.doubt_the_close());
    recorder.note(match closed {
        Closed::Listening => {
            "the old generation has closed its listeners, and the kernel listens on: a thread of its waits for a \
             connection on one, and it could not be had to be stopped (Linux 5.6 and CAP_SYS_PTRACE)"
                .into()
        }
        _ => format!(
            "the old generation (process {}) still has its listeners: the new one may be unable to bind",
            process.pid()
        ),
    });
    Ok(())
}

/// How long the old generation may take to make room: as long as SYNs are held, less the time that the new one takes as a rule.
fn patience(drain_timeout: Duration, held_until: Option<Instant>, last_start: Option<Duration>) -> Duration {
    let held = held_until.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
    let left = held.saturating_sub(last_start.unwrap_or(Duration::from_secs(1)));
    drain_timeout.max(Duration::from_millis(left.as_millis() as u64))
}

/// How long the new generation may take before the last-known-good one is tried: it is to come up within the hold too, but
/// nobody is given up who merely takes as long as his predecessor took.
fn first_try(left: Duration, last_start: Option<Duration>) -> Duration {
    let usual = last_start.unwrap_or_default();
    left.saturating_sub(usual * 2).max(usual * 2 + Duration::from_secs(1))
}

async fn bring_up(
    supervisor: &mut Supervisor,
    ask: ReloadRequest,
    prepared: &Prepared,
    old: &[Owned],
    patience: Duration,
    recorder: &mut Recorder,
) -> Result<(), Failure> {
    start::start(supervisor, prepared, patience, recorder).await?;
    recorder.phase(|phases| &mut phases.start);
    let (inspection, verdicts) = prove(supervisor, ask, old, recorder).await?;
    recorder.phase(|phases| &mut phases.confirm);
    retire(supervisor, inspection, verdicts, recorder).await;
    Ok(())
}

/// The new generation came to nothing: what served before is started again, from the copy of its configuration.
async fn second_chance(
    supervisor: &mut Supervisor,
    ask: ReloadRequest,
    old: &[Owned],
    failure: Failure,
    recorder: &mut Recorder,
) -> Failure {
    let again = match start::prepare(supervisor, true) {
        Ok(known_good) if known_good.is_known_good => {
            bring_up(supervisor, ask, &known_good, old, Duration::MAX, recorder).await
        }
        Ok(_) if supervisor.server.haproxy().is_none() => return failure,
        Ok(_) => {
            let reason = format!("{}; and there is no last-known-good configuration yet", failure.reason);
            return Failure { reason, ..failure };
        }
        Err(error) => Err(error),
    };
    match again {
        Ok(()) => {
            let reason = format!("{}; HAProxy runs the last-known-good configuration again", failure.reason);
            supervisor.warning = Some(reason.clone());
            Failure { reason, ..failure }
        }
        Err(second) => {
            abandon(supervisor, second.ends_custody, recorder).await;
            let reason =
                format!("{}; and the last-known-good configuration did not start: {}", failure.reason, second.reason);
            Failure { reason, server_log: [failure.server_log, second.server_log].concat(), ..failure }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_generation_leaves_time_for_the_last_known_good_one() {
        let seconds = Duration::from_secs;
        assert_eq!(first_try(seconds(5), Some(seconds(1))), seconds(3));
        assert_eq!(first_try(seconds(5), None), seconds(5));
        // A server that takes longer than any hold is not cut for it.
        assert_eq!(first_try(seconds(5), Some(seconds(20))), seconds(41));
        assert_eq!(first_try(Duration::ZERO, Some(seconds(1))), seconds(3));
    }
}

//! A reload of a HAProxy that its own unit keeps in master-worker mode: its master starts the new worker and retires the old one by
//! itself, so the daemon learns what was bound anew when the old worker closes already. Custody keeps the old sockets and what
//! is queued on them until it has moved over; what cannot move over is held from before.

mod ask;
mod follow;
mod guard;
mod take_over;

use std::time::Instant;

pub(crate) use follow::{adopt, follow};

use super::protection::Protection;
use super::replace;
use crate::config::Require;
use crate::haproxy::binds::Binds;
use crate::haproxy::master::Absent;
use crate::haproxy::scan::{self, Facts, QUIC_LOSES, Source};
use crate::receipt::{Failure, Recorder};
use crate::supervision::Supervisor;

/// Said in each receipt: the second phase of a reload is not the daemon's here.
const RETIRES_BY_ITSELF: &str =
    "companion mode: HAProxy's master retired the old worker by itself, before the new one was proven";

/// What is known before the master is asked.
struct Prepared {
    sources: Vec<Source>,
    facts: Facts,
    binds: Binds,
}

/// Runs it. A master that fails leaves the old worker serving.
pub(crate) async fn run(
    supervisor: &mut Supervisor,
    recorder: &mut Recorder,
    guards: &mut Protection,
    tell: &dyn Fn(&str),
) -> Result<(), Failure> {
    let prepared = prepare(supervisor)?;
    refuse_unproven_plan(supervisor)?;
    if !ask::tells_failures(supervisor) {
        tell("checking the configuration");
        replace::check(supervisor).await?;
    }
    let old = supervisor.present_listeners();
    recorder.phase(|phases| &mut phases.plan);

    guard::install(supervisor, &prepared, &old, recorder, guards, tell).await?;
    if !supervisor.is_served() {
        return Err(Failure::new("the serving worker ended before its master was asked: nothing was done"));
    }
    tell("waiting for the new worker");
    let began = Instant::now();
    let found = ask::reload(supervisor, &prepared.facts.stats_sockets).await?;
    supervisor.last_start = Some(began.elapsed());
    recorder.phase(|phases| &mut phases.start);

    recorder.receipt().notes.push(RETIRES_BY_ITSELF.into());
    if prepared.facts.quic {
        recorder.note(QUIC_LOSES);
    }
    take_over::take_over(supervisor, &found, &old, recorder, guards, tell).await?;
    remember_binds(supervisor, prepared);
    Ok(())
}

fn prepare(supervisor: &mut Supervisor) -> Result<Prepared, Failure> {
    let Some(companion) = &supervisor.companion else { return Err(Failure::new("internal error: no companion")) };
    if !supervisor.is_served() {
        let why = companion.absent.as_deref().unwrap_or("its worker has ended");
        return Err(Failure::new(format!("nothing to reload: {why}; reloader starts no HAProxy in companion mode")));
    }
    let (sources, facts) = read(&companion.haproxy.config)?;
    // It would serve, and could not be found.
    if facts.stats_sockets.is_empty() {
        return Err(Failure::new(Absent::NoSocket.to_string()));
    }
    let binds = Binds::from_sources(&sources);
    Ok(Prepared { sources, facts, binds })
}

/// The configuration on disk, unless it cannot be followed.
fn read(config: &[std::path::PathBuf]) -> Result<(Vec<Source>, Facts), Failure> {
    let sources = scan::read(config).map_err(|error| Failure::new(format!("HAProxy's configuration: {error}")))?;
    // Programs need master-worker mode, which this is.
    let facts = Facts { master_worker: true, ..scan::facts(&sources) };
    match facts.refusal() {
        Some(refusal) => Err(Failure::new(refusal)),
        None => Ok((sources, facts)),
    }
}

/// Once the master was asked there is no way back: it can only be refused before.
fn refuse_unproven_plan(supervisor: &mut Supervisor) -> Result<(), Failure> {
    if supervisor.config.reload.require != Require::Proven {
        return Ok(());
    }
    let abilities = supervisor.server.capabilities().map_err(|error| Failure::new(error.to_string()))?;
    match crate::plan::unproven(&supervisor.plan(&abilities)) {
        Some(why) => Err(Failure::new(format!("require = \"proven\", and the plan cannot prove {why}"))),
        None => Ok(()),
    }
}

/// The next reload compares with what this worker has read, provided that it is known.
fn remember_binds(supervisor: &mut Supervisor, prepared: Prepared) {
    let Some(companion) = &mut supervisor.companion else { return };
    let unchanged = scan::read(&companion.haproxy.config).is_ok_and(|now| now == prepared.sources);
    companion.binds = unchanged.then_some(prepared.binds);
}

//! The strategy for a HAProxy that its own unit keeps in master-worker mode: its master starts the new worker and retires the old one by itself,
//! so the old worker is already closing its listeners when the daemon learns what was bound again. Custody keeps the old sockets and what is
//! queued on them until it has moved over; what cannot move over is held from before.

mod ask;
mod follow;
mod hold;
mod take_over;

use std::path::PathBuf;
use std::time::Instant;

pub(crate) use follow::{adopt, follow};

use super::attempt::Attempt;
use super::steps::check::ended_before;
use crate::haproxy::binds::Binds;
use crate::haproxy::master::Absent;
use crate::haproxy::scan::{self, Facts, QUIC_LOSES, Source};
use crate::process::run_blocking;
use crate::receipt::{Failure, ReasonCode};
use crate::server::unknown_version;
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
pub(super) async fn run(attempt: &mut Attempt<'_>) -> Result<(), Failure> {
    let prepared = prepare(attempt.supervisor).await?;
    // Once the master was asked there is no way back: a reload can only be refused before.
    if attempt.requires_proof() {
        let capabilities = attempt.supervisor.refresh_server().await;
        attempt.refuse_unproven_plan(&capabilities.map_err(unknown_version)?)?;
    }
    if !ask::tells_failures(attempt.supervisor) {
        attempt.tell("checking the configuration");
        attempt.check().await?;
    }
    let old = attempt.supervisor.present_listeners();
    attempt.recorder.phase(|phases| &mut phases.plan);

    attempt.hold_what_cannot_move(&prepared, &old).await?;
    if !attempt.supervisor.is_served() {
        return Err(ended_before(false, false));
    }
    attempt.tell("waiting for the new worker");
    let began = Instant::now();
    let found = ask::reload(attempt.supervisor, &prepared.facts.stats_sockets).await?;
    attempt.supervisor.note_start_time(began.elapsed());
    attempt.recorder.phase(|phases| &mut phases.start);

    attempt.recorder.receipt().notes.push(RETIRES_BY_ITSELF.into());
    if prepared.facts.quic {
        attempt.recorder.note(QUIC_LOSES);
    }
    attempt.take_over(&found, &old).await?;
    remember_binds(attempt.supervisor, prepared).await;
    Ok(())
}

async fn prepare(supervisor: &mut Supervisor) -> Result<Prepared, Failure> {
    let Some(companion) = supervisor.server().companion() else { return Err(Failure::internal("no companion")) };
    if !supervisor.is_served() {
        let why = companion.why_not_followed();
        let reason = format!("nothing to reload: {why}; reloader starts no HAProxy in companion mode");
        return Err(Failure::new(ReasonCode::WorkerAbsent, reason));
    }
    let files = companion.config().config.clone();
    let read = run_blocking(move || read(&files));
    let (sources, facts) = supervisor.heartbeat().during(read).await?;
    // The new worker would serve, and the daemon could not find it.
    if facts.stats_sockets.is_empty() {
        return Err(Failure::new(ReasonCode::ConfigurationRefused, Absent::NoSocket.to_string()));
    }
    let binds = Binds::from_sources(&sources);
    supervisor.set_exposes(facts.exposes);
    Ok(Prepared { sources, facts, binds })
}

/// The configuration on disk, unless it cannot be followed.
fn read(config: &[PathBuf]) -> Result<(Vec<Source>, Facts), Failure> {
    let refused = |reason: String| Failure::new(ReasonCode::ConfigurationRefused, reason);
    let sources = scan::read(config).map_err(|error| refused(format!("HAProxy's configuration: {error}")))?;
    // Programs need master-worker mode, which this is.
    let facts = Facts { master_worker: true, ..scan::facts(&sources) };
    match facts.refusal() {
        Some(refusal) => Err(refused(refusal)),
        None => Ok((sources, facts)),
    }
}

/// The next reload compares with what this worker has read, provided that it is known.
async fn remember_binds(supervisor: &mut Supervisor, prepared: Prepared) {
    let Some(companion) = supervisor.server().companion() else { return };
    let files = companion.config().config.clone();
    let read = run_blocking(move || scan::read(&files));
    let now = supervisor.heartbeat().during(read).await;
    let unchanged = now.is_ok_and(|now| now == prepared.sources);
    supervisor.set_binds(unchanged.then_some(prepared.binds));
}

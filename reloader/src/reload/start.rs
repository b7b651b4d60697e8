//! Starts a new generation without touching the old one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::recorder::{Failure, Recorder};
use crate::config::OnStop;
use crate::haproxy::launch;
use crate::haproxy::overlay::overlay;
use crate::haproxy::scan::{self, Facts, Source};
use crate::haproxy::version::Version;
use crate::haproxy::wait::{self, Appearance, Limits, NotReady};
use crate::process::Handle;
use crate::supervision::{Generation, Supervisor};

/// What is known before the process starts.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// HAProxy's version.
    pub(crate) version: Version,
    config: Vec<PathBuf>,
    sources: Vec<Source>,
    /// What the configuration says in passing.
    pub(crate) facts: Facts,
    /// It is the last-known-good configuration.
    pub(crate) is_known_good: bool,
}

/// Reads the configuration and refuses what cannot become a generation.
pub(crate) fn prepare(supervisor: &mut Supervisor, use_known_good: bool) -> Result<Prepared, Failure> {
    let version = supervisor.version().map_err(|error| Failure::new(error.to_string()))?;
    let known_good = supervisor.known_good.config().filter(|_| use_known_good);
    let is_known_good = known_good.is_some();
    let config = known_good.unwrap_or_else(|| supervisor.config.haproxy.config.clone());
    let (sources, facts) = scan::load(&config).map_err(Failure::new)?;
    Ok(Prepared { version, config, sources, facts, is_known_good })
}

/// Starts the process with its sockets on offer, and waits until it is ready. It stands in `supervisor.starting`
/// from the moment it exists. It may take no longer than `patience`, nor than `start-timeout`.
pub(crate) async fn start(
    supervisor: &mut Supervisor,
    prepared: &Prepared,
    patience: Duration,
    recorder: &mut Recorder,
) -> Result<(), Failure> {
    let began = Instant::now();
    let number = supervisor.take_number();
    let files = supervisor.files(number);
    let spread = supervisor.config.reload.close_spread_time.value();
    let overlay = overlay(&files.socket, &prepared.facts, prepared.version, spread);
    let sockets = if prepared.version.passes_sockets() { supervisor.offer() } else { Vec::new() };
    let offers = !sockets.is_empty();
    let broker = offers.then(|| supervisor.broker.path());
    let appearance = Appearance::watch(&files.socket).map_err(|error| Failure::new(error.to_string()))?;
    let mut command = launch::command(&supervisor.config.haproxy, &prepared.config, &files, &overlay, broker)
        .map_err(|error| Failure::new(error.to_string()))?;
    supervisor.inheritance.apply_to(&mut command);

    let process = Handle::spawn(&mut command).map_err(|error| {
        files.remove();
        Failure::new(error.to_string())
    })?;
    // No await between the start and the offer: see `Broker::offer`.
    supervisor.broker.offer(process.pid(), sockets);
    let label = launch::label(&prepared.config);
    supervisor.starting = Some(Generation::started(number, process.clone(), files, label, prepared.facts.noreuseport));
    supervisor.record_start().await;

    let limits = Limits {
        start_timeout: supervisor.config.reload.start_timeout.min(patience),
        old: supervisor.serving.as_ref().map(|old| old.process.clone()),
        custody_max: supervisor.custody_max(),
        custody_ends: supervisor.custody_ends(),
        stopping: may_be_given_up(supervisor).then(|| supervisor.stopping.clone()),
    };
    let ready = wait::ready(&process, &appearance, limits, || {
        supervisor.tick();
        supervisor.custody_ends()
    })
    .await;
    let taken = supervisor.broker.withdraw();
    match ready {
        Ok(info) => {
            log::debug!("generation {number}: HAProxy {} answers as process {}", info.version, info.pid);
            if offers && !taken {
                recorder.note("the new generation did not take its sockets from the broker");
            }
            supervisor.last_start = Some(began.elapsed());
            Ok(())
        }
        Err(error) => {
            let ends_custody = matches!(error, NotReady::NobodyServes(_));
            Err(Failure { ends_custody, ..failure(supervisor, error.to_string()) })
        }
    }
}

/// A daemon that is asked to stop gives up a start, unless that would leave nobody serving where somebody should.
fn may_be_given_up(supervisor: &Supervisor) -> bool {
    supervisor.is_served() || supervisor.down.is_none() || supervisor.config.on_stop == OnStop::Retire
}

/// A failure of the generation that is starting, with what it said.
pub(crate) fn failure(supervisor: &mut Supervisor, reason: String) -> Failure {
    let said = |generation: &mut Generation| match generation.process.try_ended() {
        Some(_) => generation.last_log_lines(),
        None => generation.new_log_lines(),
    };
    let server_log = supervisor.starting.as_mut().map(said).unwrap_or_default();
    Failure { server_log, ..Failure::new(reason) }
}

/// After a proven start this configuration is the last-known-good one, provided it is still what HAProxy read.
pub(crate) fn keep_as_known_good(supervisor: &mut Supervisor, prepared: &Prepared, recorder: &mut Recorder) {
    if prepared.is_known_good {
        recorder.note("HAProxy runs the last-known-good configuration: the one on disk did not start");
        return;
    }
    match scan::read(&prepared.config) {
        Ok(sources) if sources == prepared.sources => {
            if let Err(error) = supervisor.known_good.save(&sources) {
                recorder.note(format!("the last-known-good configuration was not stored: {error}"));
            }
        }
        _ => recorder.note("the configuration changed on disk while HAProxy read it: not kept as last-known-good"),
    }
}

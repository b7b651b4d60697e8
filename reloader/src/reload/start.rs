//! Starts a new generation without touching the old one.

use std::time::{Duration, Instant};

use crate::process::readiness::{self, Limits, NotReady};
use crate::process::{Ended, is_init};
use crate::receipt::{Failure, Recorder};
use crate::server::{LaunchContext, Launched, Prepared};
use crate::supervision::{Generation, Supervisor};

/// Reads the configuration and refuses what cannot become a generation.
pub(crate) fn prepare(supervisor: &mut Supervisor, use_known_good: bool) -> Result<Prepared, Failure> {
    let known_good = supervisor.known_good.config().filter(|_| use_known_good);
    supervisor.server.prepare(known_good).map_err(Failure::new)
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
    let Launched { process, label, given, readiness, offers } =
        launch(supervisor, prepared, number).map_err(Failure::new)?;
    let mut generation = Generation::started(
        number,
        process.clone(),
        supervisor.server.process_scope(),
        supervisor.files(number),
        label,
    );
    generation.given = given;
    generation.noreuseport = prepared.binds_alone;
    generation.stop = supervisor.server.stop();
    supervisor.starting = Some(generation);
    supervisor.record_start().await;

    let limits = Limits {
        start_timeout: supervisor.config.reload.start_timeout.min(patience),
        old: supervisor.serving.as_ref().map(|old| old.process.clone()),
        custody_max: supervisor.custody_max(),
        custody_ends: supervisor.custody_ends(),
        stopping: may_be_given_up(supervisor).then(|| supervisor.stopping.clone()),
    };
    let ready = readiness::wait_until_ready(&process, readiness.reached(), limits, || {
        supervisor.tick();
        supervisor.custody_ends()
    })
    .await;
    let taken = supervisor.server.withdraw();
    match ready {
        Ok(()) => {
            log::debug!("generation {number}: process {} is ready", process.pid());
            if offers && !taken {
                recorder.note("the new generation did not take its sockets from the broker");
            }
            supervisor.last_start = Some(began.elapsed());
            Ok(())
        }
        Err(error) => {
            let ends_custody = matches!(error, NotReady::NothingServes(_));
            let lacks = readiness.why_not_ready().filter(|_| ends_custody || matches!(error, NotReady::TimedOut(_)));
            let forked = matches!(error, NotReady::Ended(Ended::Exited(0))) && supervisor.server.haproxy().is_none();
            let foreground = forked.then(|| "a server has to stay in the foreground".to_owned());
            let reason = match lacks.or(foreground) {
                Some(more) => format!("{error}; {more}"),
                None => error.to_string(),
            };
            Err(Failure { ends_custody, ..failure(supervisor, reason) })
        }
    }
}

fn launch(supervisor: &mut Supervisor, prepared: &Prepared, number: u64) -> Result<Launched, String> {
    let files = supervisor.files(number);
    let ways = LaunchContext {
        files: &files,
        custody: supervisor.offer(),
        inheritance: &supervisor.inheritance,
        spread: supervisor.config.reload.close_spread_time.value(),
    };
    supervisor.server.launch(prepared, ways)
}

/// A daemon that is asked to stop gives up a start, unless that would leave nobody serving where somebody should.
fn may_be_given_up(supervisor: &Supervisor) -> bool {
    supervisor.is_served() || supervisor.down.is_none() || supervisor.config.on_stop.retires(is_init())
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
    match prepared.confirmed_sources() {
        Ok(Some(sources)) => {
            if let Err(error) = supervisor.known_good.save(sources) {
                recorder.note(format!("the last-known-good configuration was not stored: {error}"));
            }
        }
        Ok(None) => {}
        Err(why) => recorder.note(why),
    }
}

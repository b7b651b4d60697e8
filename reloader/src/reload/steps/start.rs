//! Starts a new generation without touching the old one.

use std::time::{Duration, Instant};

use crate::process::readiness::{self, Limits, NotReady, StartLimit};
use crate::process::{Ended, Handle, is_init};
use crate::receipt::{Failure, ReasonCode};
use crate::reload::attempt::Attempt;
use crate::reload::shared_start::SharedStart;
use crate::server::{LaunchContext, Launched, Prepared, ReadByServer, Readiness};
use crate::supervision::{Generation, Supervisor, notify};

/// Until when systemd is to hear from a daemon that starts a server while nothing serves. It hears every second.
const PULSE_LIMIT: Duration = Duration::from_secs(30);

impl Attempt<'_> {
    /// Reads the configuration, or the last-known-good one, and refuses what cannot become a generation. It may take no longer than
    /// `start-timeout`, nor than custody is kept with nothing serving.
    pub(in crate::reload) async fn read_configuration(&self, use_known_good: bool) -> Result<Prepared, Failure> {
        let known_good = self.supervisor.last_known_good().filter(|_| use_known_good);
        let left = self.supervisor.custody_ends().map(|ends| ends.saturating_duration_since(Instant::now()));
        let timeout = self.supervisor.config().reload.start_timeout;
        let heartbeat = self.supervisor.heartbeat();
        let prepared = heartbeat.during(self.supervisor.server().prepare(known_good));
        match tokio::time::timeout(timeout.min(left.unwrap_or(Duration::MAX)), prepared).await {
            Ok(prepared) => prepared,
            Err(_) if left.is_some_and(|left| left < timeout) => {
                let max = humantime::format_duration(self.supervisor.custody_max());
                let reason =
                    format!("nothing serves, and custody-max ({max}) was over before the configuration was read");
                Err(Failure::new(ReasonCode::CustodyMax, reason))
            }
            Err(_) => {
                let time = humantime::format_duration(timeout);
                let reason =
                    format!("the configuration was not read within {time}: its file system, or `haproxy -v`, hangs");
                Err(Failure::new(ReasonCode::StartTimedOut, reason))
            }
        }
    }

    /// Starts the process with its sockets on offer, and waits until it is ready. It is the supervisor's starting generation from the moment
    /// it exists. It may take no longer than `limit`, nor than the configuration allows.
    pub(in crate::reload) async fn start(
        &mut self,
        prepared: &Prepared,
        limit: Option<StartLimit>,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let number = self.supervisor.take_number();
        let shared = self.shared_start.take();
        let heartbeat = self.supervisor.heartbeat();
        let launched = heartbeat.during(launch(self.supervisor, prepared, number, shared.as_ref())).await;
        let launched = match launched {
            Ok(launched) => launched,
            Err(reason) => {
                self.end_sharing(shared).await;
                return Err(Failure::new(ReasonCode::StartFailed, reason));
            }
        };
        let Launched { process, label, given, readiness, offers } = launched;
        self.note_if_outside(shared.as_ref(), &process);
        let (scope, files) = (self.supervisor.server().process_scope(), self.supervisor.service().files(number));
        let mut generation = Generation::started(number, process.clone(), scope, files, label);
        generation.given = given;
        generation.noreuseport = prepared.binds_alone;
        generation.binds_as = self.supervisor.server().binds_as().ok();
        generation.drain_times = prepared.drain_times();
        generation.stop = self.supervisor.server().stop();
        self.supervisor.begin_start(generation);
        // Its process asks the broker within a second or gives up: the record is written beside the loop. A failure is in the log.
        let _ = self.supervisor.record_now().await;

        let limits = limits(self.supervisor, the_shorter(self.start_limit(prepared), limit));
        let is_served = self.supervisor.is_served();
        let tell_service_manager = || {
            if !is_served {
                notify::still_starting(PULSE_LIMIT);
            }
        };
        tell_service_manager();
        let ready = readiness::wait_until_ready(&process, readiness.reached(), limits, || {
            tell_service_manager();
            self.supervisor.tick();
            self.supervisor.custody_ends()
        })
        .await;
        let taken = self.supervisor.server().withdraw();
        let not_shared = self.end_sharing(shared).await;
        if let Err(error) = ready {
            let failure = self.start_failure(&error, &readiness);
            let reason = [Some(failure.reason), not_shared].into_iter().flatten().collect::<Vec<_>>().join("; ");
            return Err(Failure { reason, ..failure });
        }
        not_shared.into_iter().for_each(|note| self.recorder.note(note));
        log::debug!("generation {number}: process {} is ready", process.pid());
        if offers && !taken {
            self.recorder.note("the new generation did not take its sockets from the broker");
        }
        self.supervisor.note_start_time(began.elapsed());
        // The next start, by a reload, has less time.
        self.supervisor.slow_start_warning().into_iter().for_each(|sentence| self.recorder.note(sentence));
        Ok(())
    }

    /// While nothing serves, a start is waited for longer where there is nothing else to start: to end it would help no client. Copies of the
    /// same configuration would take as long.
    fn start_limit(&self, prepared: &Prepared) -> StartLimit {
        let reload = &self.supervisor.config().reload;
        let is_last_chance = prepared.is_known_good || !self.supervisor.has_another_known_good(prepared.sources());
        let first = StartLimit { time: reload.first_start_timeout, setting: "first-start-timeout" };
        match !self.supervisor.is_served() && is_last_chance && first.time > reload.start_timeout {
            true => first,
            false => StartLimit { time: reload.start_timeout, setting: "start-timeout" },
        }
    }

    fn note_if_outside(&mut self, shared: Option<&SharedStart>, process: &Handle) {
        if shared.is_some_and(|shared| !shared.has(process.pid())) && process.try_ended().is_none() {
            self.recorder.note(format!(
                "process {} could not enter its control group: its ports are not shared with the next generation",
                process.pid()
            ));
        }
    }

    fn start_failure(&mut self, error: &NotReady, readiness: &Readiness) -> Failure {
        let ends_custody = matches!(error, NotReady::NothingServes(_));
        let is_late = ends_custody || matches!(error, NotReady::TimedOut(_));
        let why_not_ready = readiness.why_not_ready().filter(|_| is_late);
        let has_exited = matches!(error, NotReady::Ended(Ended::Exited(0)));
        let forked = has_exited && self.supervisor.server().may_fork_away();
        let foreground = forked.then(|| "a server has to stay in the foreground".to_owned());
        let advice = self.supervisor.server().start_advice().filter(|_| !ends_custody);
        let parts = [Some(error.to_string()), why_not_ready.or(foreground), advice];
        let reason = parts.into_iter().flatten().collect::<Vec<_>>().join("; ");
        let code = match error {
            NotReady::NothingServes(_) => ReasonCode::CustodyMax,
            NotReady::TimedOut(_) => ReasonCode::StartTimedOut,
            NotReady::Stopping => ReasonCode::DaemonStopping,
            NotReady::Ended(_) | NotReady::Watch(_) | NotReady::Unseen(_) => ReasonCode::StartFailed,
        };
        Failure { ends_custody, ..self.failure_with_log(code, reason) }
    }

    /// A failure of the generation that is starting, with what it wrote on standard error.
    pub(in crate::reload) fn failure_with_log(&mut self, code: ReasonCode, reason: String) -> Failure {
        let server_log = self.supervisor.starting_log_lines();
        Failure { server_log, ..Failure::new(code, reason) }
    }

    /// After a proven start this configuration is the last-known-good one, provided it is still what HAProxy read. True if its copies are to
    /// be tried.
    pub(in crate::reload) async fn keep_as_known_good(&mut self) -> bool {
        if self.is_known_good {
            self.recorder.note("HAProxy runs the last-known-good configuration: the one on disk did not start");
        }
        let Some(read) = self.read.take() else { return false };
        self.keep(read).await.unwrap_or_else(|why| {
            self.recorder.note(why);
            false
        })
    }

    async fn keep(&mut self, read: ReadByServer) -> Result<bool, String> {
        let Some(digests) = self.recorder.receipt().configuration.clone() else {
            return Err("not kept as last-known-good: the files of the configuration could not be read in time".into());
        };
        let heartbeat = self.supervisor.heartbeat();
        heartbeat.during(read.confirm()).await?;
        let kept = self.supervisor.keep_last_known_good(read, digests).await;
        kept.map_err(|error| format!("the last-known-good configuration was not stored: {error}"))
    }
}

/// The message about a start that takes too long names the key that bounded it. Pure.
fn the_shorter(configured: StartLimit, other: Option<StartLimit>) -> StartLimit {
    other.filter(|other| other.time < configured.time).unwrap_or(configured)
}

async fn launch(
    supervisor: &Supervisor,
    prepared: &Prepared,
    number: u64,
    shared: Option<&SharedStart>,
) -> Result<Launched, String> {
    let files = supervisor.service().files(number);
    let context = LaunchContext {
        files: &files,
        custody: supervisor.offer(),
        inheritance: supervisor.host().inheritance(),
        // Where nothing serves, a server that binds alone is better than none.
        control_group: shared.map(|shared| shared.entrance(supervisor.is_served())),
        spread: supervisor.config().reload.close_spread_time.value(),
    };
    supervisor.server().launch(prepared, context).await
}

fn limits(supervisor: &Supervisor, start: StartLimit) -> Limits {
    Limits {
        start,
        old: supervisor.serving().map(|old| old.process.clone()),
        custody_max: supervisor.custody_max(),
        custody_ends: supervisor.custody_ends(),
        stopping: may_be_given_up(supervisor).then(|| supervisor.stopping()),
    }
}

/// Whether a daemon that is asked to stop gives up the start. It finishes a start after an outage where the server is meant to serve on without
/// the daemon.
fn may_be_given_up(supervisor: &Supervisor) -> bool {
    let is_down = supervisor.outage().current().is_some();
    supervisor.is_served() || !is_down || supervisor.config().on_stop.retires(is_init())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_that_bounds_a_start_is_the_one_that_is_named() {
        let limit = |seconds, setting| StartLimit { time: Duration::from_secs(seconds), setting };
        let configured = limit(30, "start-timeout");
        assert_eq!(the_shorter(configured, Some(limit(3, "hold.max"))).setting, "hold.max");
        assert_eq!(the_shorter(configured, Some(limit(60, "hold.max"))), configured);
        assert_eq!(the_shorter(configured, None), configured);
    }
}

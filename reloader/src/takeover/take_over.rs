//! Hands a running unit of HAProxy to reloader.

use super::daemon_client::DaemonClient;
use super::error::TakeoverError;
use super::preflight::{self, Candidate};
use super::request::{TakeoverReport, TakeoverRequest};
use super::step_runner::{FailedStep, StepRunner};
use super::steps::{self, Step};
use super::{systemd, table};
use crate::config::Config;

pub(super) async fn run(
    request: TakeoverRequest<'_>,
    config: &Config,
    daemon: &dyn DaemonClient,
    announce: &dyn Fn(&Step),
) -> Result<TakeoverReport, TakeoverError> {
    let candidate = preflight::check_take_over(request.unit, request.reloader, request.config_path, config).await?;
    let steps = steps::take_over(&candidate, request.reloader, config);
    let settings = table::rows(&candidate.unit, &candidate.command_line);
    if !request.dry_run {
        let mut runner = StepRunner::new(&candidate.unit, config, daemon, announce);
        if let Err(failed) = runner.run(&steps).await {
            return Err(roll_back(&mut runner, &candidate, failed).await);
        }
    }
    let mut notes = candidate.command_line.notes;
    let frozen = settings.iter().filter(|row| row.fate == table::Fate::Frozen);
    notes.extend(frozen.map(|row| format!("{}: {}", row.setting, row.how)));
    notes.push(format!(
        "`systemctl reload {0}` and `systemctl status {0}` work as before. `systemctl stop {0}` ends the daemon and leaves HAProxy \
         serving; `reloader stop` ends both",
        request.unit
    ));
    Ok(TakeoverReport { unit: request.unit.into(), done: !request.dry_run, settings, steps, notes })
}

/// Makes HAProxy the main process of its unit again, after a step has failed.
async fn roll_back(runner: &mut StepRunner<'_>, candidate: &Candidate, failed: FailedStep) -> TakeoverError {
    let (unit, pid) = (&candidate.unit, candidate.pid);
    let main_pid = systemd::unit(&unit.name).ok().and_then(|unit| unit.main_pid());
    let steps = steps::abort_take_over(unit, pid, main_pid, candidate.new_config.is_some());
    let outcome = match runner.run(&steps).await {
        Ok(()) => format!("{} is as it was before, and HAProxy (process {pid}) has served all the time", unit.name),
        Err(FailedStep { step, reason }) => {
            format!("HAProxy (process {pid}) serves on, but {} could not be put back: {step}: {reason}", unit.name)
        }
    };
    TakeoverError::StepFailed { step: failed.step, reason: failed.reason, outcome }
}

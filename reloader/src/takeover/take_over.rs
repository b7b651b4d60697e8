//! Hands a running unit of HAProxy to reloader.

use std::path::Path;

use super::daemon_client::DaemonClient;
use super::error::TakeoverError;
use super::preflight::{self, Candidate};
use super::request::{TakeoverReport, TakeoverRequest};
use super::step_runner::{FailedStep, StepRunner};
use super::steps::{self, Step};
use super::{systemd, table};
use crate::config::{Config, OnStop};
use crate::process;

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
    notes.push(new_meanings(request.unit, request.config_path, config.on_stop));
    Ok(TakeoverReport {
        unit: request.unit.into(),
        done: !request.dry_run,
        settings,
        steps,
        notes,
        may_have_lost: false,
    })
}

/// What the commands of the unit do from now on. Pure.
fn new_meanings(unit: &str, config_path: Option<&Path>, on_stop: OnStop) -> String {
    let stop = match config_path {
        Some(path) => format!("reloader --config {} stop", path.display()),
        None => "reloader stop".into(),
    };
    let ends = match on_stop {
        OnStop::Retire => {
            format!("`systemctl stop {unit}` and `{stop}` end the daemon and HAProxy (on-stop = \"retire\")")
        }
        OnStop::Leave => {
            format!("`systemctl stop {unit}` ends the daemon and leaves HAProxy serving; `{stop}` ends both")
        }
    };
    format!("`systemctl reload {unit}` and `systemctl status {unit}` work as before. {ends}")
}

/// What became of HAProxy while a takeover failed. Pure.
fn fate_of_haproxy(pid: u32, runs: bool) -> String {
    match runs {
        true => format!("HAProxy (process {pid}) runs on and was sent no signal"),
        false => format!("HAProxy (process {pid}) has ended meanwhile"),
    }
}

/// Makes HAProxy the main process of its unit again, after a step has failed.
async fn roll_back(runner: &mut StepRunner<'_>, candidate: &Candidate, failed: FailedStep) -> TakeoverError {
    let (unit, pid) = (&candidate.unit, candidate.pid);
    let main_pid = systemd::unit(&unit.name).ok().and_then(|unit| unit.main_pid());
    let steps = steps::abort_take_over(unit, pid, main_pid, candidate.new_config.is_some());
    let fate = || fate_of_haproxy(pid, process::start_time(pid).is_some());
    let outcome = match runner.run(&steps).await {
        Ok(()) => format!("{} is as it was before; {}", unit.name, fate()),
        Err(FailedStep { step, reason }) => {
            format!("{} could not be put back: {step}: {reason}; {}", unit.name, fate())
        }
    };
    TakeoverError::StepFailed { step: failed.step, reason: failed.reason, outcome }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meaning_of_stop_follows_the_configuration() {
        let leave = new_meanings("haproxy.service", None, OnStop::Leave);
        assert!(leave.ends_with("ends the daemon and leaves HAProxy serving; `reloader stop` ends both"), "{leave}");
        let retire = new_meanings("b.service", Some(Path::new("/opt/b.toml")), OnStop::Retire);
        let both = "`systemctl stop b.service` and `reloader --config /opt/b.toml stop` end the daemon and HAProxy";
        assert!(retire.contains(both), "{retire}");
    }

    #[test]
    fn haproxy_is_said_to_run_only_where_it_runs() {
        assert_eq!(fate_of_haproxy(7, true), "HAProxy (process 7) runs on and was sent no signal");
        assert_eq!(fate_of_haproxy(7, false), "HAProxy (process 7) has ended meanwhile");
    }
}

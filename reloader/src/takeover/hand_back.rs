//! Hands a unit that was taken over back to HAProxy.

use std::fs;

use super::daemon_client::DaemonClient;
use super::error::TakeoverError;
use super::request::{TakeoverReport, TakeoverRequest};
use super::step_runner::{FailedStep, StepRunner};
use super::steps::{self, Step};
use super::unit::Unit;
use super::{files, preflight};
use crate::config::Config;
use crate::fs::generation_files::GenerationFiles;
use crate::supervision::status::Serving;

pub(super) async fn run(
    request: TakeoverRequest<'_>,
    config: &Config,
    daemon: &dyn DaemonClient,
    announce: &dyn Fn(&Step),
) -> Result<TakeoverReport, TakeoverError> {
    let unit = preflight::check_hand_back(request.unit, config).await?;
    let before = serving(daemon).map_err(TakeoverError::Daemon)?;
    if request.dry_run {
        return Ok(dry_run(&unit, config, before));
    }
    let mut runner = StepRunner::new(&unit, config, daemon, announce);
    runner.run(&[Step::Reload]).await.map_err(|failed| TakeoverError::Daemon(failed.reason))?;
    let steps = steps_for(&unit, config, &serving(daemon).map_err(TakeoverError::Daemon)?);
    if let Err(failed) = runner.run(&steps).await {
        return Err(roll_back(&mut runner, &unit, request.reloader, config, failed).await);
    }
    let notes = runner.into_notes();
    Ok(TakeoverReport { unit: unit.name, done: true, settings: Vec::new(), steps: after_reload(steps), notes })
}

fn dry_run(unit: &Unit, config: &Config, before: Serving) -> TakeoverReport {
    let expected = Serving { generation: before.generation + 1, ..before };
    TakeoverReport {
        unit: unit.name.clone(),
        done: false,
        settings: Vec::new(),
        steps: after_reload(steps_for(unit, config, &expected)),
        notes: vec!["the generation and its process will be those of the reload that comes first".into()],
    }
}

fn steps_for(unit: &Unit, config: &Config, serving: &Serving) -> Vec<Step> {
    let socket = GenerationFiles::new(&config.runtime_dir, serving.generation).socket;
    steps::hand_back(unit, serving.pid, &socket, is_our_config())
}

fn after_reload(steps: Vec<Step>) -> Vec<Step> {
    std::iter::once(Step::Reload).chain(steps).collect()
}

/// Makes the daemon the main process of the unit again, after a step has failed.
async fn roll_back(
    runner: &mut StepRunner<'_>,
    unit: &Unit,
    reloader: &str,
    config: &Config,
    failed: FailedStep,
) -> TakeoverError {
    let name = &unit.name;
    let outcome = match runner.run(&steps::abort_hand_back(unit, reloader, config)).await {
        Ok(()) => format!("{name} is reloader's as before, and its generation has served all the time"),
        Err(FailedStep { step, reason }) => {
            format!("{name} could not be put back: {step}: {reason}; see `systemctl status {name}`")
        }
    };
    TakeoverError::StepFailed { step: failed.step, reason: failed.reason, outcome }
}

fn serving(daemon: &dyn DaemonClient) -> Result<Serving, String> {
    let status = daemon.status()?;
    status.main.serving.ok_or_else(|| "the daemon serves nothing: there is nothing to hand back".into())
}

/// Whether the configuration is unchanged since a takeover wrote it. All its settings are then on the unit's command line
/// as well.
pub(super) fn is_our_config() -> bool {
    fs::read_to_string(files::CONFIG).is_ok_and(|text| files::is_as_written(&text))
}

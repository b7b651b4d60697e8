//! Hands a unit that was taken over back to HAProxy.

use std::fs;
use std::path::Path;

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
        return Ok(dry_run(&unit, config, before, request.config_path));
    }
    let mut runner = StepRunner::new(&unit, config, daemon, announce);
    runner.run(&[Step::Reload]).await.map_err(|failed| TakeoverError::Daemon(failed.reason))?;
    let steps = steps_for(&unit, config, &serving(daemon).map_err(TakeoverError::Daemon)?, request.config_path);
    if let Err(failed) = runner.run(&steps).await {
        return Err(match runner.has_retired() {
            // The way back would end the HAProxy that serves now.
            true => {
                let outcome = left_to_do(&unit.name, &steps);
                TakeoverError::StepFailed { step: failed.step, reason: failed.reason, outcome }
            }
            false => roll_back(&mut runner, &unit, request.reloader, config, failed).await,
        });
    }
    let (may_have_lost, notes) = (runner.may_have_lost(), runner.into_notes());
    let steps = after_reload(steps);
    Ok(TakeoverReport { unit: unit.name, done: true, settings: Vec::new(), steps, notes, may_have_lost })
}

fn dry_run(unit: &Unit, config: &Config, before: Serving, config_path: Option<&Path>) -> TakeoverReport {
    let expected = Serving { generation: before.generation + 1, ..before };
    TakeoverReport {
        unit: unit.name.clone(),
        done: false,
        settings: Vec::new(),
        steps: after_reload(steps_for(unit, config, &expected, config_path)),
        notes: vec!["the generation and its process will be those of the reload that comes first".into()],
        may_have_lost: false,
    }
}

fn steps_for(unit: &Unit, config: &Config, serving: &Serving, config_path: Option<&Path>) -> Vec<Step> {
    let socket = GenerationFiles::new(&config.runtime_dir, serving.generation).socket;
    steps::hand_back(unit, serving.pid, &socket, is_our_config(config_path))
}

fn after_reload(steps: Vec<Step>) -> Vec<Step> {
    std::iter::once(Step::Reload).chain(steps).collect()
}

/// The state of the unit where a step has failed after HAProxy had taken the daemon's place. Pure.
fn left_to_do(unit: &str, steps: &[Step]) -> String {
    let after = steps.iter().skip_while(|step| !matches!(step, Step::Retire { .. })).skip(1);
    let left: Vec<String> =
        after.map(|step| step.to_string().split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    format!(
        "HAProxy runs as the main process of {unit} again; of these steps some are left to do by hand: {}",
        left.join("; ")
    )
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
        Ok(()) => format!("{name} is reloader's as before, and its generation was not told to drain"),
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

/// Whether the configuration is the one that a takeover writes, and unchanged since. Another unit's may be at `config_path`. All its settings are then on the unit's command line
/// as well.
pub(super) fn is_our_config(config_path: Option<&Path>) -> bool {
    let is_meant = config_path.is_none_or(|path| path == Path::new(files::CONFIG));
    is_meant && fs::read_to_string(files::CONFIG).is_ok_and(|text| files::is_as_written(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_after_the_retirement_are_left_to_do() {
        let unit = "haproxy.service";
        let steps = [
            Step::Remove { path: files::drop_in(unit) },
            Step::Retire { pid: 7 },
            Step::Remove { path: files::handover(unit) },
            Step::Systemctl { words: vec!["daemon-reload".into()] },
        ];
        let outcome = left_to_do(unit, &steps);
        let (state, left) = outcome.split_once(": ").unwrap();
        assert_eq!(
            left,
            "remove /run/systemd/system/haproxy.service.d/zzz-reloader-handover.conf; run systemctl daemon-reload"
        );
        assert!(state.starts_with("HAProxy runs as the main process of haproxy.service again"), "{state}");
    }
}

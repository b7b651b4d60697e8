//! Puts right what a takeover has left that was killed before its end.

use std::collections::HashSet;
use std::fs::{self, File};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::daemon_client::DaemonClient;
use super::error::TakeoverError;
use super::request::TakeoverRequest;
use super::step_runner::{FailedStep, StepRunner};
use super::steps::{self, Step};
use super::unit::Unit;
use super::{files, hand_back, preflight};
use crate::config::Config;
use crate::haproxy::master::root_of;
use crate::kernel::sock_diag;
use crate::process;

/// The directory that all takeovers lock. systemd itself does not.
const LOCKED: &str = "/run/systemd/system";

/// What was found of the earlier takeover.
struct Left {
    /// The text of the drop-in that is present while the main process changes.
    handover: String,
    main: MainProcess,
    /// A generation of the daemon that still listens beside the unit's own HAProxy.
    generation: Option<u32>,
    /// Whether the configuration is as a takeover wrote it.
    is_our_config: bool,
}

/// The main process of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MainProcess {
    /// The daemon.
    Daemon,
    /// A HAProxy.
    Haproxy(u32),
    /// There is none.
    Absent,
}

/// Keeps other takeovers away as long as the returned file is open.
///
/// # Errors
/// [`TakeoverError::Busy`] while another one runs.
pub(super) fn lock() -> Result<File, TakeoverError> {
    let failed = |message: String| TakeoverError::Daemon(format!("cannot lock {LOCKED}: {message}"));
    let directory = File::open(LOCKED).map_err(|error| failed(error.to_string()))?;
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(directory),
        Err(Errno::WOULDBLOCK) => Err(TakeoverError::Busy),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Whether an earlier takeover of this unit, or its undoing, did not come to its end. Call it under the [`lock`].
pub(super) fn is_left(unit: &str) -> bool {
    files::handover(unit).exists()
}

/// Completes the earlier takeover, or takes it back where the unit was not restarted yet. Returns the steps that it took.
///
/// # Errors
/// If the unit cannot be read, or a step fails.
pub(super) async fn put_right(
    request: TakeoverRequest<'_>,
    config: &Config,
    daemon: &dyn DaemonClient,
    announce: &dyn Fn(&Step),
) -> Result<Vec<Step>, TakeoverError> {
    let unit = preflight::settled_unit(request.unit).await?;
    let handover = files::handover(request.unit);
    let unreadable = |error| TakeoverError::Daemon(format!("cannot read {}: {error}", handover.display()));
    let text = fs::read_to_string(&handover).map_err(unreadable)?;
    let main = main_process(&unit);
    let left =
        Left { handover: text, main, generation: left_generation(main), is_our_config: hand_back::is_our_config() };
    let steps = steps_for(&unit, &left, request.reloader, config);
    let failed = |FailedStep { step, reason }| {
        let outcome = format!("what an earlier takeover left is still in {}", handover.display());
        TakeoverError::StepFailed { step, reason, outcome }
    };
    StepRunner::new(&unit, config, daemon, announce).run(&steps).await.map_err(failed)?;
    Ok(steps)
}

fn main_process(unit: &Unit) -> MainProcess {
    let Some(pid) = unit.main_pid() else { return MainProcess::Absent };
    let program = process::executable(pid).unwrap_or_default();
    match program.file_name().is_some_and(|name| name.to_string_lossy().contains("haproxy")) {
        true => MainProcess::Haproxy(pid),
        false => MainProcess::Daemon,
    }
}

/// The first process of the generation that the daemon ran, where it still listens beside the unit's own HAProxy.
fn left_generation(main: MainProcess) -> Option<u32> {
    let MainProcess::Haproxy(main) = main else { return None };
    let family = process::family(main);
    let listening: HashSet<u64> = sock_diag::listeners().ok()?.into_iter().map(|found| found.inode).collect();
    let own: HashSet<u64> =
        process::sockets_of(&family).into_keys().filter(|inode| listening.contains(inode)).collect();
    let holders = process::holders_of(&own).into_values().flatten();
    // systemd may have the sockets in its store.
    let others = holders.filter(|pid| !family.contains(pid) && process::executable(*pid) == process::executable(main));
    others.map(root_of).min()
}

/// Decides by what the unit's main process is. Pure.
fn steps_for(unit: &Unit, left: &Left, reloader: &str, config: &Config) -> Vec<Step> {
    let name = unit.name.as_str();
    let is_take_over = left.handover == files::KILL_NOTHING;
    let mut steps = Vec::new();
    match left.main {
        MainProcess::Haproxy(_) => {
            steps.push(Step::Remove { path: files::drop_in(name) });
            steps.extend(left.generation.map(|pid| Step::Retire { pid }));
            steps.extend(left.is_our_config.then(|| Step::Remove { path: files::CONFIG.into() }));
        }
        MainProcess::Daemon if is_take_over => {}
        // HAProxy was not started in the daemon's place.
        MainProcess::Daemon => {
            steps.push(Step::Write { path: files::drop_in(name), text: files::drop_in_text(unit, reloader, config) });
        }
        // HAProxy serves on in the unit. The daemon, or systemd by the PID file, finds it.
        MainProcess::Absent => {
            steps.extend([steps::systemctl(&["reset-failed", name]), steps::systemctl(&["start", name])]);
        }
    }
    steps.extend([
        Step::Remove { path: files::handover(name) },
        Step::Remove { path: files::pid_file(name) },
        steps::systemctl(&["daemon-reload"]),
    ]);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(handover: &str, main: MainProcess, generation: Option<u32>) -> Vec<String> {
        let unit = Unit::parse("haproxy.service", "", "ExecStart=/usr/sbin/haproxy -Ws\n", files::DROP_IN);
        let left = Left { handover: handover.into(), main, generation, is_our_config: true };
        let first_line = |step: &Step| step.to_string().lines().next().unwrap_or_default().to_owned();
        let words = |line: String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        steps_for(&unit, &left, "/usr/bin/reloader", &Config::parse("").unwrap())
            .iter()
            .map(first_line)
            .map(words)
            .collect()
    }

    #[test]
    fn each_state_has_its_way_out() {
        let drop_in = files::drop_in("haproxy.service").display().to_string();
        let [remove, write] = ["remove", "write"].map(|verb| format!("{verb} {drop_in}"));
        let config = format!("remove {}", files::CONFIG);
        let is_planned = |handover: &str, main: MainProcess, generation: Option<u32>, steps: &[&str]| {
            let planned = planned(handover, main, generation);
            let (begin, end) = planned.split_at(planned.len() - 3);
            assert_eq!(begin, steps, "{main:?}");
            assert!(end[0].contains("handover") && end[2] == "run systemctl daemon-reload", "{end:?}");
        };
        let back = "[Service]\nExecStart=\nExecStart=/usr/sbin/haproxy -Ws -x /run/reloader/a.sock\n";
        let (haproxy, daemon) = (MainProcess::Haproxy(7), MainProcess::Daemon);
        is_planned(files::KILL_NOTHING, haproxy, None, &[&remove, &config]);
        is_planned(files::KILL_NOTHING, daemon, None, &[]);
        is_planned(back, daemon, None, &[&write]);
        let retire = "retire the daemon's generation (process 9) once the unit's HAProxy has the same sockets";
        is_planned(back, haproxy, Some(9), &[&remove, retire, &config]);
        let start = ["run systemctl reset-failed haproxy.service", "run systemctl start haproxy.service"];
        is_planned(files::KILL_NOTHING, MainProcess::Absent, None, &start);
    }
}

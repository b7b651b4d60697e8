//! Puts right what a takeover has left that was killed before its end.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::Duration;

use rustix::fs::OFlags;

use super::daemon_client::DaemonClient;
use super::error::TakeoverError;
use super::request::TakeoverRequest;
use super::step_runner::{FailedStep, StepRunner};
use super::steps::{self, Step};
use super::unit::Unit;
use super::{files, hand_back, preflight, systemd};
use crate::config::Config;
use crate::fs::lock_within;
use crate::haproxy::master::root_of;
use crate::kernel::sock_diag;
use crate::process;

/// The file that all takeovers lock.
const LOCK: &str = "/run/reloader-takeover.lock";

/// How often a lock whose file is removed at that moment is tried again.
const LOCK_TRIES: usize = 10;

/// How many times the state of the unit is looked at, each time after the steps that it asks for.
const ROUNDS: usize = 3;

/// What an earlier takeover, or its undoing, has left.
struct Remains {
    /// The text of the drop-in that is present while the main process changes.
    handover: Option<String>,
    /// The HAProxy in the PID file of a takeover that was being taken back.
    given_back: Option<u32>,
    main: MainProcess,
    /// A generation of the daemon that still listens beside the unit's own HAProxy.
    generation: Option<u32>,
    /// The first process of the daemon's serving generation; 0 without one, which no step accepts.
    adopted: u32,
    /// Whether the configuration is as a takeover wrote it.
    is_our_config: bool,
}

/// The main process of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MainProcess {
    /// The daemon.
    Daemon,
    /// A HAProxy.
    Haproxy(u32),
    /// There is none.
    Absent,
}

/// Keeps other takeovers away.
pub(super) struct TakeoverLock(#[expect(dead_code, reason = "the kernel drops the lock with the file")] File);

impl TakeoverLock {
    /// Takes the lock. Only root can open its file.
    ///
    /// # Errors
    /// [`TakeoverError::Busy`] while another takeover runs.
    pub(super) fn take() -> Result<TakeoverLock, TakeoverError> {
        let failed = |error: io::Error| TakeoverError::Daemon(format!("cannot lock {LOCK}: {error}"));
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        for _ in 0..LOCK_TRIES {
            let file = options.open(LOCK).map_err(failed)?;
            lock_within(&file, Duration::ZERO).map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => TakeoverError::Busy,
                _ => failed(error),
            })?;
            // An earlier takeover may have removed the file after it was opened here.
            let opened = file.metadata().map_err(failed)?.ino();
            if fs::metadata(LOCK).is_ok_and(|found| found.ino() == opened) {
                return Ok(TakeoverLock(file));
            }
        }
        Err(TakeoverError::Busy)
    }
}

impl Drop for TakeoverLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(LOCK);
    }
}

/// Completes the earlier takeover, or takes it back where the unit was not restarted yet. Returns the steps that it took. Call it under the
/// [`TakeoverLock`].
///
/// # Errors
/// If the unit cannot be read, or a step fails.
pub(super) async fn put_right(
    request: TakeoverRequest<'_>,
    config: &Config,
    daemon: &dyn DaemonClient,
    announce: &dyn Fn(&Step),
) -> Result<Vec<Step>, TakeoverError> {
    let mut taken = Vec::new();
    // systemd does not show a unit one of whose files was removed since it has read them.
    if files::handover(request.unit).exists() || files::pid_file(request.unit).exists() {
        systemd::systemctl(&["daemon-reload"])?;
    }
    for _ in 0..ROUNDS {
        let unit = preflight::settled_unit(request.unit).await?;
        let Some(remains) = remains(&unit, request, daemon) else { break };
        let steps = steps_for(&unit, &remains, request.reloader, config);
        let failed = |FailedStep { step, reason }| {
            let outcome =
                format!("an earlier takeover of {} was ended before its end, and could not be put right", unit.name);
            TakeoverError::StepFailed { step, reason, outcome }
        };
        StepRunner::new(&unit, config, daemon, announce).run(&steps).await.map_err(failed)?;
        taken.extend(steps);
    }
    Ok(taken)
}

/// `None` if nothing is left.
fn remains(unit: &Unit, request: TakeoverRequest<'_>, daemon: &dyn DaemonClient) -> Option<Remains> {
    let name = &unit.name;
    let handover = fs::read_to_string(files::handover(name)).ok();
    let given_back = fs::read_to_string(files::pid_file(name)).ok();
    let main = main_process(unit);
    let runs_haproxy = files::drop_in(name).exists() && matches!(main, MainProcess::Haproxy(_));
    (handover.is_some() || given_back.is_some() || runs_haproxy).then(|| Remains {
        handover,
        given_back: given_back.and_then(|text| text.trim().parse().ok()),
        main,
        generation: left_generation(main),
        adopted: daemon.status().ok().and_then(|status| status.main.serving).map_or(0, |serving| serving.pid),
        is_our_config: hand_back::is_our_config(request.config_path),
    })
}

fn main_process(unit: &Unit) -> MainProcess {
    let Some(pid) = unit.main_pid() else { return MainProcess::Absent };
    match preflight::is_called_haproxy(&process::executable(pid).unwrap_or_default()) {
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
fn steps_for(unit: &Unit, remains: &Remains, reloader: &str, config: &Config) -> Vec<Step> {
    let name = unit.name.as_str();
    let is_hand_back = remains.handover.as_ref().is_some_and(|text| text != files::KILL_NOTHING);
    if let Some(pid) = remains.given_back {
        let main_pid = matches!(remains.main, MainProcess::Haproxy(_)).then_some(pid);
        return steps::abort_take_over(unit, pid, main_pid, remains.is_our_config);
    }
    let mut steps = Vec::new();
    match remains.main {
        MainProcess::Haproxy(_) => {
            steps.push(Step::Remove { path: files::drop_in(name) });
            steps.extend(remains.generation.map(|pid| Step::Retire { pid }));
            steps.extend(remains.is_our_config.then(|| Step::Remove { path: files::CONFIG.into() }));
        }
        // HAProxy was not started in the daemon's place.
        MainProcess::Daemon if is_hand_back => {
            steps.push(Step::Write { path: files::drop_in(name), text: files::drop_in_text(unit, reloader, config) });
        }
        MainProcess::Daemon => steps.push(Step::Adopted { pid: remains.adopted }),
        // HAProxy serves on in the unit, and what is started finds it. Then the state is looked at again.
        MainProcess::Absent => {
            return vec![steps::systemctl(&["reset-failed", name]), steps::systemctl(&["start", name])];
        }
    }
    steps.extend([Step::Remove { path: files::handover(name) }, steps::systemctl(&["daemon-reload"])]);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(handover: &str, main: MainProcess, generation: Option<u32>) -> Vec<String> {
        let remains = Remains {
            handover: Some(handover.to_owned()).filter(|text| !text.is_empty()),
            given_back: None,
            main,
            generation,
            adopted: 5,
            is_our_config: true,
        };
        words_of(&remains)
    }

    fn words_of(remains: &Remains) -> Vec<String> {
        let unit = Unit::parse("haproxy.service", "", "ExecStart=/usr/sbin/haproxy -Ws\n", files::DROP_IN);
        let first_line = |step: &Step| step.to_string().lines().next().unwrap_or_default().to_owned();
        let words = |line: String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let steps = steps_for(&unit, remains, "/usr/bin/reloader", &Config::parse("").unwrap());
        steps.iter().map(first_line).map(words).collect()
    }

    #[test]
    fn each_state_has_its_way_out() {
        let drop_in = files::drop_in("haproxy.service").display().to_string();
        let [remove, write] = ["remove", "write"].map(|verb| format!("{verb} {drop_in}"));
        let config = format!("remove {}", files::CONFIG);
        let is_planned = |handover: &str, main: MainProcess, generation: Option<u32>, steps: &[&str]| {
            let planned = planned(handover, main, generation);
            let (begin, end) = planned.split_at(planned.len() - 2);
            assert_eq!(begin, steps, "{main:?}");
            assert!(end[0].contains("handover") && end[1] == "run systemctl daemon-reload", "{end:?}");
        };
        let back = "[Service]\nExecStart=\nExecStart=/usr/sbin/haproxy -Ws -x /run/reloader/a.sock\n";
        let (haproxy, daemon) = (MainProcess::Haproxy(7), MainProcess::Daemon);
        is_planned(files::KILL_NOTHING, haproxy, None, &[&remove, &config]);
        let adopted = "check that the daemon has adopted HAProxy (process 5) and keeps its sockets";
        is_planned(files::KILL_NOTHING, daemon, None, &[adopted]);
        is_planned(back, daemon, None, &[&write]);
        let retire = "retire the daemon's generation (process 9) once the unit's HAProxy has the same sockets";
        is_planned(back, haproxy, Some(9), &[&remove, retire, &config]);
        is_planned("", haproxy, None, &[&remove, &config]);
        let start = ["run systemctl reset-failed haproxy.service", "run systemctl start haproxy.service"];
        assert_eq!(planned(files::KILL_NOTHING, MainProcess::Absent, None), start);
    }

    #[test]
    fn rollback_that_was_killed_is_gone_through_again() {
        let remains = |main| Remains {
            handover: None,
            given_back: Some(7),
            main,
            generation: None,
            adopted: 0,
            is_our_config: false,
        };
        let again = words_of(&remains(MainProcess::Absent));
        assert!(again.contains(&"run systemctl start haproxy.service".to_owned()), "{again:?}");
        let done = words_of(&remains(MainProcess::Haproxy(7)));
        assert_eq!(done.last().unwrap(), "run systemctl daemon-reload");
        assert!(done.iter().any(|step| step.ends_with("given-back.pid")), "{done:?}");
    }
}

//! Lists the steps of a takeover and of handing a unit back, and the steps that undo either after a failure.
//! `step_runner` takes them.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files;
use super::preflight::Candidate;
use super::unit::Unit;
use crate::config::Config;

/// One step. Its form in JSON is an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Step {
    /// Write a file.
    Write {
        /// Its path.
        path: PathBuf,
        /// Its content.
        text: String,
    },
    /// Remove a file.
    Remove {
        /// Its path.
        path: PathBuf,
    },
    /// Run `systemctl`.
    Systemctl {
        /// Its arguments.
        words: Vec<String>,
    },
    /// Check that the daemon has adopted the HAProxy that the unit ran before.
    Adopted {
        /// The pid of HAProxy's main process.
        pid: u32,
    },
    /// Ask HAProxy on its stats socket, and go on only if it answers.
    Answers {
        /// The stats socket.
        socket: PathBuf,
    },
    /// Reload by the daemon, so that the serving generation runs the configuration that is on disk now.
    Reload,
    /// Compare the sockets of the unit's HAProxy with those of the serving generation, then tell that generation to drain.
    Retire {
        /// The pid of the generation's main process.
        pid: u32,
    },
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Write { path, text } => {
                write!(f, "write   {}", path.display())?;
                text.lines().try_for_each(|line| write!(f, "\n          {line}"))
            }
            Step::Remove { path } => write!(f, "remove  {}", path.display()),
            Step::Systemctl { words } => write!(f, "run     systemctl {}", words.join(" ")),
            Step::Adopted { pid } => {
                write!(f, "check   that the daemon has adopted HAProxy (process {pid}) and keeps its sockets")
            }
            Step::Answers { socket } => write!(f, "ask     HAProxy on {}, which must answer", socket.display()),
            Step::Reload => write!(f, "reload  as `reloader reload` does, and go on only if it is proven"),
            Step::Retire { pid } => {
                write!(
                    f,
                    "retire  the daemon's generation (process {pid}) once the unit's HAProxy has the same sockets"
                )
            }
        }
    }
}

pub(super) fn systemctl(words: &[&str]) -> Step {
    Step::Systemctl { words: words.iter().map(|word| (*word).to_owned()).collect() }
}

/// Makes the daemon the unit's main process in HAProxy's place. HAProxy itself is not touched: the daemon finds it running.
/// `reloader` is the command of this program.
pub(super) fn take_over(candidate: &Candidate, reloader: &str, config: &Config) -> Vec<Step> {
    let Candidate { unit, pid, socket, new_config, .. } = candidate;
    let (name, pid) = (unit.name.as_str(), *pid);
    let mut steps: Vec<Step> = Vec::new();
    steps.extend(new_config.clone().map(|text| Step::Write { path: files::CONFIG.into(), text }));
    steps.extend([
        Step::Write { path: files::handover(name), text: files::KILL_NOTHING.into() },
        Step::Write { path: files::drop_in(name), text: files::drop_in_text(unit, reloader, config) },
        systemctl(&["daemon-reload"]),
        systemctl(&["restart", name]),
        Step::Adopted { pid },
        Step::Remove { path: files::handover(name) },
        systemctl(&["daemon-reload"]),
        Step::Answers { socket: socket.clone() },
    ]);
    steps
}

/// Makes HAProxy (`pid`) the unit's main process again, after a step of [`take_over`] has failed. HAProxy runs in any case.
/// `main_pid` is the unit's main process now.
pub(super) fn abort_take_over(unit: &Unit, pid: u32, main_pid: Option<u32>, wrote_config: bool) -> Vec<Step> {
    let name = unit.name.as_str();
    let mut steps = Vec::new();
    steps.extend(wrote_config.then(|| Step::Remove { path: files::CONFIG.into() }));
    if main_pid == Some(pid) {
        let written = [files::drop_in(name), files::handover(name), files::pid_file(name)];
        steps.extend(written.map(|path| Step::Remove { path }));
        steps.push(systemctl(&["daemon-reload"]));
        return steps;
    }
    steps.extend([
        // A rollback that is killed is found by this file.
        Step::Write { path: files::pid_file(name), text: format!("{pid}\n") },
        // This restores KillMode=process, so that the stop ends a running daemon and no other process.
        Step::Remove { path: files::handover(name) },
        systemctl(&["daemon-reload"]),
        systemctl(&["stop", name]),
        Step::Remove { path: files::drop_in(name) },
        Step::Write { path: files::handover(name), text: files::readopt_text(name) },
        systemctl(&["daemon-reload"]),
        systemctl(&["reset-failed", name]),
        systemctl(&["start", name]),
        Step::Remove { path: files::handover(name) },
        Step::Remove { path: files::pid_file(name) },
        systemctl(&["daemon-reload"]),
    ]);
    steps
}

/// Makes a new HAProxy the unit's main process, with the sockets of the serving generation: `pid` is its main process and
/// `socket` its private stats socket. They are known only after the [`Step::Reload`] that comes before these steps.
pub(super) fn hand_back(unit: &Unit, pid: u32, socket: &Path, removes_config: bool) -> Vec<Step> {
    let name = unit.name.as_str();
    let mut steps = vec![
        Step::Write { path: files::handover(name), text: files::hand_back_text(unit, socket) },
        Step::Remove { path: files::drop_in(name) },
        systemctl(&["daemon-reload"]),
        systemctl(&["restart", name]),
        Step::Retire { pid },
        Step::Remove { path: files::handover(name) },
        systemctl(&["daemon-reload"]),
    ];
    steps.extend(removes_config.then(|| Step::Remove { path: files::CONFIG.into() }));
    steps
}

/// Makes the daemon the unit's main process again, after a step of [`hand_back`] has failed. The daemon finds the serving
/// generation running.
pub(super) fn abort_hand_back(unit: &Unit, reloader: &str, config: &Config) -> Vec<Step> {
    let name = unit.name.as_str();
    vec![
        Step::Write { path: files::drop_in(name), text: files::drop_in_text(unit, reloader, config) },
        Step::Remove { path: files::handover(name) },
        systemctl(&["daemon-reload"]),
        systemctl(&["reset-failed", name]),
        systemctl(&["restart", name]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::haproxy::command_line::CommandLine;

    fn unit() -> Unit {
        Unit::parse("haproxy.service", "", "ExecStart=/usr/sbin/haproxy -Ws -f $CONFIG\n", "")
    }

    fn index(steps: &[Step], is_wanted: impl Fn(&Step) -> bool) -> usize {
        steps.iter().position(is_wanted).expect("the step is among them")
    }

    fn writes(step: &Step, words: &str) -> bool {
        matches!(step, Step::Write { text, .. } if text.contains(words))
    }

    #[test]
    fn takeover_restarts_the_unit_only_while_systemd_ends_no_process() {
        let command_line = CommandLine {
            binary: PathBuf::new(),
            config: Vec::new(),
            args: Vec::new(),
            pid_file: None,
            notes: Vec::new(),
        };
        let (unit, socket) = (unit(), PathBuf::from("/run/haproxy/admin.sock"));
        let steps = take_over(
            &Candidate { unit, pid: 7, command_line, socket: socket.clone(), new_config: Some("x".into()) },
            "/r",
            &Config::parse("[haproxy]\n").unwrap(),
        );
        let restart = index(&steps, |step| *step == systemctl(&["restart", "haproxy.service"]));
        assert!(index(&steps, |step| writes(step, "KillMode=none")) < restart);
        assert!(
            index(&steps, |step| matches!(step, Step::Write { path, .. } if *path == Path::new(files::CONFIG)))
                < restart
        );
        let handover = Step::Remove { path: files::handover("haproxy.service") };
        assert!(restart < index(&steps, |step| *step == Step::Adopted { pid: 7 }));
        assert!(index(&steps, |step| *step == Step::Adopted { pid: 7 }) < index(&steps, |step| *step == handover));
        assert_eq!(steps.last(), Some(&Step::Answers { socket }));
    }

    #[test]
    fn aborted_takeover_never_signals_haproxy() {
        let stop = systemctl(&["stop", "haproxy.service"]);
        assert!(!abort_take_over(&unit(), 7, Some(7), true).contains(&stop));
        let steps = abort_take_over(&unit(), 7, Some(8), true);
        let kill_mode_none = Step::Remove { path: files::handover("haproxy.service") };
        assert!(index(&steps, |step| *step == kill_mode_none) < index(&steps, |step| *step == stop));
    }

    #[test]
    fn generation_is_retired_after_the_new_haproxy_has_its_sockets() {
        let steps = hand_back(&unit(), 9, Path::new("/run/reloader/generation-3.sock"), true);
        let start = index(&steps, |step| {
            writes(step, "ExecStart=/usr/sbin/haproxy -Ws -f $CONFIG -x /run/reloader/generation-3.sock")
        });
        let restart = index(&steps, |step| *step == systemctl(&["restart", "haproxy.service"]));
        assert!(start < restart && restart < index(&steps, |step| *step == Step::Retire { pid: 9 }));
    }
}

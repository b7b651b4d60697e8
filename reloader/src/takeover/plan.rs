//! What is done, in which order. Pure.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files;
use super::unit::Unit;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Step {
    /// Write a file.
    Write {
        /// Which.
        path: PathBuf,
        /// Its text.
        text: String,
    },
    /// Remove a file.
    Remove {
        /// Which.
        path: PathBuf,
    },
    /// Run `systemctl`.
    Systemctl {
        /// Its arguments.
        words: Vec<String>,
    },
    /// Look whether the daemon has in its care what the unit ran before.
    Adopted {
        /// HAProxy's main process.
        pid: u32,
    },
    /// Reload by the daemon, so that what serves has been read from the configuration that is there now.
    Reload,
    /// Compare the sockets of the unit's HAProxy with those of the generation that serves, then tell that one to drain.
    Retire {
        /// The generation's main process.
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
                write!(f, "look    that the daemon has HAProxy (process {pid}) and its sockets in its care")
            }
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

fn systemctl(words: &[&str]) -> Step {
    Step::Systemctl { words: words.iter().map(|word| (*word).to_owned()).collect() }
}

/// The daemon takes HAProxy's place as the unit's main process. HAProxy itself is not touched: the daemon finds it running.
pub(super) fn take(unit: &Unit, pid: u32, reloader: &str, config: Option<String>) -> Vec<Step> {
    let name = unit.name.as_str();
    let mut steps: Vec<Step> = Vec::new();
    steps.extend(config.map(|text| Step::Write { path: files::CONFIG.into(), text }));
    steps.extend([
        Step::Write { path: files::drop_in(name), text: files::drop_in_text(reloader) },
        Step::Write { path: files::handover(name), text: files::LEAVE_ALL.into() },
        systemctl(&["daemon-reload"]),
        systemctl(&["restart", name]),
        Step::Adopted { pid },
        Step::Remove { path: files::handover(name) },
        systemctl(&["daemon-reload"]),
    ]);
    steps
}

/// What undoes a takeover that did not come to its end, `main` being the unit's main process by now: HAProxy (`pid`) runs on all the same,
/// and is the main process again.
pub(super) fn give_up(unit: &Unit, pid: u32, main: Option<u32>, wrote_config: bool) -> Vec<Step> {
    let name = unit.name.as_str();
    let mut steps = Vec::new();
    steps.extend(wrote_config.then(|| Step::Remove { path: files::CONFIG.into() }));
    if main == Some(pid) {
        let written = [files::drop_in(name), files::handover(name)];
        steps.extend(written.map(|path| Step::Remove { path }));
        steps.push(systemctl(&["daemon-reload"]));
        return steps;
    }
    steps.extend([
        // Back to KillMode=process: a daemon that runs is ended, and nobody else.
        Step::Remove { path: files::handover(name) },
        systemctl(&["daemon-reload"]),
        systemctl(&["stop", name]),
        Step::Remove { path: files::drop_in(name) },
        Step::Write { path: files::pid_file(name), text: format!("{pid}\n") },
        Step::Write { path: files::handover(name), text: files::given_back_text(name) },
        systemctl(&["daemon-reload"]),
        systemctl(&["reset-failed", name]),
        systemctl(&["start", name]),
        Step::Remove { path: files::handover(name) },
        Step::Remove { path: files::pid_file(name) },
        systemctl(&["daemon-reload"]),
    ]);
    steps
}

/// HAProxy is the unit's main process again: a new one, which gets the sockets of the generation that serves (`pid`, `socket`). A
/// [`Step::Reload`] comes first, and which generation serves is known after it.
pub(super) fn undo(unit: &Unit, pid: u32, socket: &Path, removes_config: bool) -> Vec<Step> {
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

/// What undoes a handing back whose HAProxy did not start: the daemon takes its place again, and finds the generation that serves.
pub(super) fn keep(unit: &Unit, reloader: &str) -> Vec<Step> {
    let name = unit.name.as_str();
    vec![
        Step::Write { path: files::drop_in(name), text: files::drop_in_text(reloader) },
        Step::Remove { path: files::handover(name) },
        systemctl(&["daemon-reload"]),
        systemctl(&["reset-failed", name]),
        systemctl(&["restart", name]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Unit {
        Unit::parse("haproxy.service", "", "ExecStart=/usr/sbin/haproxy -Ws -f $CONFIG\n", "")
    }

    fn place(steps: &[Step], wanted: impl Fn(&Step) -> bool) -> usize {
        steps.iter().position(wanted).expect("such a step")
    }

    fn writes(step: &Step, words: &str) -> bool {
        matches!(step, Step::Write { text, .. } if text.contains(words))
    }

    #[test]
    fn nothing_is_ended_while_the_daemon_takes_its_place() {
        let steps = take(&unit(), 7, "/r", Some("x".into()));
        let restart = place(&steps, |step| *step == systemctl(&["restart", "haproxy.service"]));
        assert!(place(&steps, |step| writes(step, "KillMode=none")) < restart);
        assert!(
            place(&steps, |step| matches!(step, Step::Write { path, .. } if *path == Path::new(files::CONFIG)))
                < restart
        );
        let handover = Step::Remove { path: files::handover("haproxy.service") };
        assert!(restart < place(&steps, |step| *step == Step::Adopted { pid: 7 }));
        assert!(place(&steps, |step| *step == Step::Adopted { pid: 7 }) < place(&steps, |step| *step == handover));
        assert_eq!(steps.last(), Some(&systemctl(&["daemon-reload"])));
    }

    #[test]
    fn giving_up_never_signals_haproxy() {
        let stop = systemctl(&["stop", "haproxy.service"]);
        assert!(!give_up(&unit(), 7, Some(7), true).contains(&stop));
        let steps = give_up(&unit(), 7, Some(8), true);
        let leaves_all = Step::Remove { path: files::handover("haproxy.service") };
        assert!(place(&steps, |step| *step == leaves_all) < place(&steps, |step| *step == stop));
    }

    #[test]
    fn the_old_one_is_retired_when_the_new_one_has_its_sockets() {
        let steps = undo(&unit(), 9, Path::new("/run/reloader/generation-3.sock"), true);
        let start = place(&steps, |step| {
            writes(step, "ExecStart=/usr/sbin/haproxy -Ws -f $CONFIG -x /run/reloader/generation-3.sock")
        });
        let restart = place(&steps, |step| *step == systemctl(&["restart", "haproxy.service"]));
        assert!(start < restart && restart < place(&steps, |step| *step == Step::Retire { pid: 9 }));
    }
}

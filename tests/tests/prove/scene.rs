//! Starts a HAProxy that a shell command reloads, and runs `prove` against it.

use std::path::PathBuf;
use std::process::Command;

use reloader_tests::config::Config;
use reloader_tests::rig::{Answer, Rig};

pub(crate) const WEB: &str = "127.0.0.1:8080";
/// The exit status of `prove` where this machine was too busy to measure anything.
pub(crate) const UNMEASURED: i32 = 75;
/// How often a run is repeated. On a busy machine some runs measure nothing.
const ATTEMPTS: usize = 30;

/// On drop, the rig ends every process with its directory on the command line.
pub(crate) struct Scene {
    pub(crate) rig: Rig,
}

impl Scene {
    /// Starts a HAProxy that serves `WEB`, without the daemon.
    pub(crate) fn start(config: &Config) -> Scene {
        let scene = Scene { rig: Rig::with(config).prepare() };
        let started = Command::new("/bin/sh").args(["-c", &scene.haproxy("")]).status().expect("running sh");
        assert!(started.success(), "HAProxy does not start");
        scene
    }

    /// The shell command that starts another HAProxy with these arguments.
    pub(crate) fn haproxy(&self, arguments: &str) -> String {
        let (config, pid) = (self.rig.haproxy_cfg(), self.rig.path("pid"));
        format!("/usr/sbin/haproxy -D -f {} -p {} {arguments}", config.display(), pid.display())
    }

    /// The shell command of a plain restart: the old process is killed, the new one started.
    pub(crate) fn restart(&self) -> String {
        format!("kill -9 $(cat {}); {}", self.rig.path("pid").display(), self.haproxy(""))
    }

    /// The shell command of HAProxy's own reload, without passing sockets.
    pub(crate) fn soft_stop(&self) -> String {
        self.haproxy(&format!("-sf $(cat {})", self.rig.path("pid").display()))
    }

    pub(crate) fn report(&self) -> PathBuf {
        self.rig.path("report.html")
    }

    pub(crate) fn prove(&self, arguments: &[&str]) -> Answer {
        prove(&self.rig, arguments)
    }
}

/// Runs `prove` with these arguments, against `WEB` if they name no target.
pub(crate) fn prove(rig: &Rig, arguments: &[&str]) -> Answer {
    let has_target = arguments.contains(&"--target");
    let target: &[&str] = if has_target { &[] } else { &["--target", WEB] };
    rig.run(&[&["prove"], target, arguments].concat())
}

/// Repeats the run until it has measured something.
///
/// # Panics
/// With the last answer, if no run measures anything.
#[track_caller]
pub(crate) fn until_measured(mut run: impl FnMut() -> Answer) -> Answer {
    let mut last = run();
    for _ in 1..ATTEMPTS {
        if last.status != UNMEASURED {
            return last;
        }
        last = run();
    }
    panic!("this machine never kept the load's schedule: {}", last.stderr)
}

/// Repeats the run until something is lost: a single run may lose nothing by chance.
#[track_caller]
pub(crate) fn until_lost(run: impl FnMut() -> Answer) -> Answer {
    until_lost_as(|_| true, run)
}

/// Repeats the run until something is lost in the way that `is_expected` accepts.
#[track_caller]
pub(crate) fn until_lost_as(is_expected: impl Fn(&Answer) -> bool, mut run: impl FnMut() -> Answer) -> Answer {
    for _ in 0..ATTEMPTS {
        let answer = until_measured(&mut run);
        if answer.status != 0 && is_expected(&answer) {
            return answer.expect_status(1);
        }
    }
    panic!("no loss of the expected kind in {ATTEMPTS} runs")
}

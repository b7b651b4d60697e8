//! A HAProxy that a shell command reloads, and `prove` beside it.

use std::path::PathBuf;
use std::process::Command;

use reloader_tests::config::Config;
use reloader_tests::rig::{Answer, Rig};

pub(crate) const WEB: &str = "127.0.0.1:8080";
/// What `prove` answers where this machine was too busy to measure anything.
pub(crate) const UNMEASURED: i32 = 75;
/// On a machine that others use too, some runs measure nothing.
const ATTEMPTS: usize = 30;

/// Dropped, the rig ends all that has its directory on the command line.
pub(crate) struct Scene {
    pub(crate) rig: Rig,
}

impl Scene {
    /// A HAProxy that serves `WEB`, started without the daemon.
    pub(crate) fn start(config: &Config) -> Scene {
        let scene = Scene { rig: Rig::with(config).prepare() };
        let started = Command::new("/bin/sh").args(["-c", &scene.haproxy("")]).status().expect("running sh");
        assert!(started.success(), "HAProxy does not start");
        scene
    }

    /// The command that starts another HAProxy, with these arguments.
    pub(crate) fn haproxy(&self, arguments: &str) -> String {
        let (config, pid) = (self.rig.haproxy_cfg(), self.rig.path("pid"));
        format!("/usr/sbin/haproxy -D -f {} -p {} {arguments}", config.display(), pid.display())
    }

    /// As many keep it: the old one ends, the new one starts.
    pub(crate) fn restart(&self) -> String {
        format!("kill -9 $(cat {}); {}", self.rig.path("pid").display(), self.haproxy(""))
    }

    /// HAProxy's own way, without its sockets being passed.
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

/// Against `WEB`, with what `arguments` say.
pub(crate) fn prove(rig: &Rig, arguments: &[&str]) -> Answer {
    let given = arguments.contains(&"--target");
    let target: &[&str] = if given { &[] } else { &["--target", WEB] };
    rig.run(&[&["prove"], target, arguments].concat())
}

/// Runs it until it has measured something; panics with the last answer if it never does.
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

/// Runs it until something was lost: what a way of reloading loses at one time is a matter of luck.
#[track_caller]
pub(crate) fn until_lost(run: impl FnMut() -> Answer) -> Answer {
    until_lost_so(|_| true, run)
}

/// The same, until something was lost in the way that is to be shown.
#[track_caller]
pub(crate) fn until_lost_so(is_so: impl Fn(&Answer) -> bool, mut run: impl FnMut() -> Answer) -> Answer {
    for _ in 0..ATTEMPTS {
        let answer = until_measured(&mut run);
        if answer.status != 0 && is_so(&answer) {
            return answer.expect_status(1);
        }
    }
    panic!("nothing was lost so in {ATTEMPTS} runs")
}

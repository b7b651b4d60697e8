//! Boots a machine with sysvinit, puts it under load, and runs its init script.

use reloader_tests::booted::{Setup, SysVinit};
use reloader_tests::guest::{self, Gate};
use reloader_tests::idle::IdleConnections;
use reloader_tests::load::{Load, Running};
use reloader_tests::rig::Answer;
use reloader_tests::servers::{Reaction, Server};
use serde_json::Value;

use crate::debian::{BACKEND, HISTORY, IDLE, receipts};
pub(crate) use crate::debian::{CONNECTIONS, LIMIT, WEB, config};

pub(crate) const SCRIPT: &str = "/etc/init.d/reloader";
pub(crate) const SETTINGS: &str = "/etc/default/reloader";
pub(crate) const CONFIG: &str = "/etc/haproxy/haproxy.cfg";

/// The reloader.toml of this row of the kernel matrix, and the rung that follows from it.
pub(crate) fn mode() -> (&'static str, &'static str) {
    match guest::gate() {
        Some(Gate::Qdisc) => ("[reload]\nstrategy = \"kernel-fallback\"\n[hold]\nmax = \"60s\"\n", "held-qdisc"),
        _ => ("", "passed"),
    }
}

/// A booted machine. The calling thread is in the machine's network.
pub(crate) struct Scene {
    pub(crate) machine: SysVinit,
    _backend: Server,
}

impl Scene {
    pub(crate) fn boot(setup: Setup) -> Scene {
        let machine = SysVinit::boot(setup.haproxy(&config()));
        machine.enter_network();
        let backend = Server::start(BACKEND, Reaction::Silent);
        Scene { machine, _backend: backend }
    }

    /// Starts the load.
    pub(crate) fn load(&self) -> Running {
        let load = Load::to([WEB]).rate(1000).start();
        load.until_started(100);
        load
    }

    /// Opens the idle connections.
    pub(crate) fn idle(&self) -> IdleConnections {
        IdleConnections::open(IDLE, CONNECTIONS)
    }

    /// Runs the init script, which must end with this status.
    #[track_caller]
    pub(crate) fn script(&self, action: &str, status: i32) -> Answer {
        self.machine.run(&[SCRIPT, action]).expect_status(status)
    }

    pub(crate) fn status(&self) -> Value {
        self.machine.reloader(&["status", "--json"]).expect_status(0).json
    }

    pub(crate) fn serving(&self) -> Value {
        self.status()["serving"]["pid"].clone()
    }

    /// All receipts, newest first.
    pub(crate) fn receipts(&self) -> Vec<Value> {
        receipts(self.machine.reloader(&HISTORY).expect_status(0))
    }

    /// Asserts that `status` succeeds and names the serving process, and gives the daemon's pid.
    #[track_caller]
    pub(crate) fn assert_runs(&self) -> String {
        let answer = self.script("status", 0);
        let serving = format!("process {}, ", self.serving());
        assert!(answer.stdout.contains(&serving) && answer.stderr.is_empty(), "{}{}", answer.stdout, answer.stderr);
        self.daemon()
    }

    /// The daemon's pid.
    pub(crate) fn daemon(&self) -> String {
        self.read("/run/reloader/lock").trim().to_owned()
    }

    /// The pid of the process that starts the daemon again.
    pub(crate) fn keeper(&self) -> String {
        self.read("/run/reloader.pid").lines().next().expect("a pid").to_owned()
    }

    #[track_caller]
    pub(crate) fn signal(&self, name: &str, pids: &[&str]) {
        self.machine.run(&["sh", "-c", &format!("kill -s {name} {}", pids.join(" "))]).expect_status(0);
    }

    /// Reads a file of the machine.
    #[track_caller]
    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.machine.inside(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

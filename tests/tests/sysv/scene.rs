//! A machine under load, and its init script.

use std::time::Duration;

use reloader_tests::booted::{Setup, SysVinit};
use reloader_tests::config::Config;
use reloader_tests::guest::{self, Gate};
use reloader_tests::idle::IdleConnections;
use reloader_tests::load::{Load, Running};
use reloader_tests::rig::Answer;
use reloader_tests::servers::{Reaction, Server};
use serde_json::Value;

pub(crate) const WEB: &str = "127.0.0.1:8000";
pub(crate) const SCRIPT: &str = "/etc/init.d/reloader";
pub(crate) const SETTINGS: &str = "/etc/default/reloader";
pub(crate) const CONFIG: &str = "/etc/haproxy/haproxy.cfg";
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const CONNECTIONS: usize = 100;
const IDLE: &str = "127.0.0.1:8001";
const BACKEND: &str = "127.0.0.1:9000";

/// HAProxy as Debian's own configuration has it: another user, a chroot, a stats socket without `expose-fd`.
pub(crate) fn config() -> Config {
    let global = ["user haproxy", "group haproxy", "chroot /var/lib/haproxy", "log /dev/log local0"];
    let config = global.into_iter().fold(Config::new(), Config::global);
    let config = config.global("stats socket /run/haproxy/admin.sock mode 660 level admin");
    config.frontend("web", &[WEB]).tcp_proxy("idle", &[IDLE], BACKEND)
}

/// What reloader.toml says in this row, and the rung that follows from it.
pub(crate) fn mode() -> (&'static str, &'static str) {
    match guest::gate() {
        Some(Gate::Qdisc) => ("[reload]\nstrategy = \"kernel-fallback\"\n[hold]\nmax = \"60s\"\n", "held-qdisc"),
        _ => ("", "passed"),
    }
}

/// The calling thread is in the machine's network.
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

    pub(crate) fn load(&self) -> Running {
        let load = Load::to([WEB]).rate(1000).start();
        load.until_started(100);
        load
    }

    pub(crate) fn idle(&self) -> IdleConnections {
        IdleConnections::open(IDLE, CONNECTIONS)
    }

    /// The init script.
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

    /// Newest first.
    pub(crate) fn receipts(&self) -> Vec<Value> {
        let said = self.machine.reloader(&["history", "--json", "-n", "1000"]).expect_status(0);
        match said.json {
            Value::Array(receipts) => receipts,
            one => vec![one],
        }
    }

    /// `status` says so, and names the process that serves; gives the daemon's pid.
    #[track_caller]
    pub(crate) fn assert_runs(&self) -> String {
        let said = self.script("status", 0);
        let serving = format!("process {}, ", self.serving());
        assert!(said.stdout.contains(&serving) && said.stderr.is_empty(), "{}{}", said.stdout, said.stderr);
        self.daemon()
    }

    pub(crate) fn daemon(&self) -> String {
        self.read("/run/reloader/lock").trim().to_owned()
    }

    pub(crate) fn keeper(&self) -> String {
        self.read("/run/reloader.pid").lines().next().expect("a pid").to_owned()
    }

    #[track_caller]
    pub(crate) fn signal(&self, name: &str, pids: &[&str]) {
        self.machine.run(&["sh", "-c", &format!("kill -s {name} {}", pids.join(" "))]).expect_status(0);
    }

    /// A file of the machine.
    #[track_caller]
    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.machine.inside(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

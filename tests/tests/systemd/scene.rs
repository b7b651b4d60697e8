//! A machine under load, with connections that nothing is said on.

use std::time::Duration;

use reloader_tests::booted::{Machine, Setup};
use reloader_tests::config::Config;
use reloader_tests::idle::IdleConnections;
use reloader_tests::load::{Load, Running};
use reloader_tests::poll::{satisfied_within, until};
use reloader_tests::servers::{Reaction, Server};
use reloader_tests::sockets::listening;
use serde_json::Value;

pub(crate) const WEB: &str = "127.0.0.1:8000";
const IDLE: &str = "127.0.0.1:8001";
const BACKEND: &str = "127.0.0.1:9000";
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const CONNECTIONS: usize = 100;

/// HAProxy as Debian's own configuration has it: another user, a chroot, a stats socket without `expose-fd`.
pub(crate) fn config() -> Config {
    let global = ["user haproxy", "group haproxy", "chroot /var/lib/haproxy", "log /dev/log local0"];
    let config = global.into_iter().fold(Config::new(), Config::global);
    let config = config.global("stats socket /run/haproxy/admin.sock mode 660 level admin");
    config.frontend("web", &[WEB]).tcp_proxy("idle", &[IDLE], BACKEND)
}

/// The calling thread is in the machine's network.
pub(crate) struct Scene {
    pub(crate) machine: Machine,
    /// The one that runs the daemon, or will.
    pub(crate) unit: &'static str,
    _backend: Server,
}

impl Scene {
    pub(crate) fn boot(setup: Setup, unit: &'static str) -> Scene {
        let machine = setup.haproxy(&config()).boot();
        machine.enter_network();
        let backend = Server::start(BACKEND, Reaction::Silent);
        Scene { machine, unit, _backend: backend }
    }

    pub(crate) fn load(&self) -> Running {
        let load = Load::to([WEB]).rate(1000).start();
        load.until_started(500);
        load
    }

    pub(crate) fn idle(&self) -> IdleConnections {
        IdleConnections::open(IDLE, CONNECTIONS)
    }

    pub(crate) fn status(&self) -> Value {
        // reloader.toml may be one that cannot be read.
        self.machine.reloader(&["--socket", "/run/reloader/control.sock", "status", "--json"]).expect_status(0).json
    }

    pub(crate) fn receipts(&self) -> Vec<Value> {
        let said = self.machine.reloader(&["history", "--json", "-n", "1000"]).expect_status(0);
        match said.json {
            Value::Array(receipts) => receipts,
            one => vec![one],
        }
    }

    /// A file of the machine.
    #[track_caller]
    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.machine.inside(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// `systemctl reload`, which must succeed.
    #[track_caller]
    pub(crate) fn reload(&self) {
        self.machine.systemctl(&["reload", self.unit]);
    }

    /// `systemctl reload`, which must fail.
    #[track_caller]
    pub(crate) fn reload_fails(&self) {
        let answer = self.machine.run(&["systemctl", "reload", self.unit]);
        assert_ne!(answer.status, 0, "a reload that failed was called done");
    }

    pub(crate) fn main_pid(&self) -> String {
        self.property("MainPID")
    }

    /// One property of the unit.
    #[track_caller]
    pub(crate) fn property(&self, name: &str) -> String {
        self.machine.unit(self.unit).get(name).to_owned()
    }

    /// The main process of the generation that serves.
    pub(crate) fn serving(&self) -> Value {
        self.status()["serving"]["pid"].clone()
    }

    /// `systemctl status` says this, and which generation serves; and that one has the kernel's listener.
    #[track_caller]
    pub(crate) fn assert_status(&self, text: &str) {
        let serving = self.status()["serving"].clone();
        let listeners = serving["listeners"].as_array().map_or(0, Vec::len);
        let serves = format!("generation {} serves {listeners} listeners, ", serving["generation"]);
        self.assert_says("active (running)", &[&serves, text]);
        assert!(self.listens(&serving["pid"].to_string()), "{serving:#} has not the sockets of {WEB}");
    }

    /// The same of a unit in any state: what the daemon has said is in the `Status:` line, and nowhere else.
    #[track_caller]
    pub(crate) fn assert_says(&self, state: &str, texts: &[&str]) {
        let mut shown = String::new();
        let agreed = satisfied_within(LIMIT, || {
            shown = self.machine.run(&["systemctl", "status", "--no-pager", "--full", "--lines=0", self.unit]).stdout;
            let line = shown.lines().find_map(|line| line.trim().strip_prefix("Status: ")).unwrap_or_default();
            shown.contains(state) && texts.iter().all(|text| line.contains(text))
        });
        assert!(agreed, "systemctl status does not say {state:?} and {texts:?}:\n{shown}");
    }

    /// Whether the kernel's listeners of [`WEB`] are this process's, or those of its workers.
    pub(crate) fn listens(&self, pid: &str) -> bool {
        let list = format!("ls -l /proc/{pid}/fd $(pgrep -P {pid} | sed 's|.*|/proc/&/fd|')");
        let links = self.machine.run(&["sh", "-c", &list]).stdout;
        let kernels = listening(port(WEB));
        !kernels.is_empty() && kernels.iter().all(|inode| links.contains(&format!("socket:[{inode}]")))
    }

    /// How often systemd has ended the daemon because it was silent.
    pub(crate) fn watchdog_timeouts(&self) -> usize {
        self.machine.journal(self.unit).matches("Watchdog timeout").count()
    }

    /// Custody is in the fd store too, and nothing else is.
    #[track_caller]
    pub(crate) fn assert_stored(&self) {
        let custody = self.status()["custody"].as_array().expect("a list").len().to_string();
        let mut stored = String::new();
        let agreed = satisfied_within(LIMIT, || {
            stored = self.property("NFileDescriptorStore");
            stored == custody
        });
        assert!(agreed && custody != "0", "{stored} sockets in the fd store, {custody} in custody");
    }

    /// Wait until the unit runs with another main process than this one.
    #[track_caller]
    pub(crate) fn until_another(&self, before: &str) {
        until(LIMIT, "systemd to start the daemon again", || {
            let unit = self.machine.unit(self.unit);
            unit.get("ActiveState") == "active" && ![before, "0"].contains(&unit.get("MainPID"))
        });
    }
}

fn port(address: &str) -> u16 {
    address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

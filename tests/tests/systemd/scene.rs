//! Boots a machine with HAProxy and reloader, and puts it under load and idle connections.

use reloader_tests::booted::{Machine, Setup};
use reloader_tests::idle::IdleConnections;
use reloader_tests::load::{Load, Running};
use reloader_tests::poll::{satisfied_within, until};
use reloader_tests::rig::Answer;
use reloader_tests::servers::{Reaction, Server};
use reloader_tests::sockets::listening;
use serde_json::Value;

use crate::debian::{BACKEND, HISTORY, IDLE, receipts};
pub(crate) use crate::debian::{CONNECTIONS, LIMIT, WEB, config};

/// Debian's own unit, and the drop-in by which a takeover makes it a unit of reloader.
pub(crate) const UNIT: &str = "haproxy.service";
pub(crate) const DROP_IN: &str = "/etc/systemd/system/haproxy.service.d/zz-reloader.conf";

/// A booted machine. The calling thread is in the machine's network.
pub(crate) struct Scene {
    pub(crate) machine: Machine,
    /// The unit that runs the daemon, or will run it.
    pub(crate) unit: &'static str,
    /// What each command of reloader needs to find that daemon.
    pub(crate) options: &'static [&'static str],
    /// An address of its HAProxy.
    pub(crate) web: &'static str,
    backend: Server,
}

impl Scene {
    /// Boots a machine whose daemon runs in this unit.
    pub(crate) fn boot(setup: Setup, unit: &'static str) -> Scene {
        Scene::boot_with(setup.haproxy(&config()), unit)
    }

    /// The same, with the configuration of HAProxy that the set-up has.
    pub(crate) fn boot_with(setup: Setup, unit: &'static str) -> Scene {
        let machine = setup.boot();
        machine.enter_network();
        Scene { machine, unit, options: &[], web: WEB, backend: Server::start(BACKEND, Reaction::Silent) }
    }

    /// Reboots the machine. Its connections end.
    pub(crate) fn reboot(&mut self) {
        self.machine.reboot();
        self.machine.enter_network();
        self.backend = Server::start(BACKEND, Reaction::Silent);
    }

    /// Starts the load.
    pub(crate) fn load(&self) -> Running {
        let load = Load::to([WEB]).rate(1000).start();
        load.until_started(500);
        load
    }

    /// Opens the idle connections.
    pub(crate) fn idle(&self) -> IdleConnections {
        IdleConnections::open(IDLE, CONNECTIONS)
    }

    /// Runs a command of reloader for this daemon.
    pub(crate) fn reloader(&self, words: &[&str]) -> Answer {
        self.machine.reloader(&[self.options, words].concat())
    }

    /// The answer of `reloader status --json`.
    pub(crate) fn status(&self) -> Value {
        // A test may have made reloader.toml unreadable.
        let options = if self.options.is_empty() { &["--socket", "/run/reloader/control.sock"] } else { self.options };
        self.machine.reloader(&[options, &["status", "--json"]].concat()).expect_status(0).json
    }

    /// All receipts, newest first.
    pub(crate) fn receipts(&self) -> Vec<Value> {
        receipts(self.reloader(&HISTORY).expect_status(0))
    }

    /// Reads a file of the machine.
    #[track_caller]
    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.machine.inside(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Runs `systemctl reload`, which must succeed.
    #[track_caller]
    pub(crate) fn reload(&self) {
        self.machine.systemctl(&["reload", self.unit]);
    }

    /// Runs `systemctl reload`, which must fail.
    #[track_caller]
    pub(crate) fn reload_fails(&self) {
        let answer = self.machine.run(&["systemctl", "reload", self.unit]);
        assert_ne!(answer.status, 0, "systemctl reports a failed reload as done");
    }

    /// The unit's main process.
    pub(crate) fn main_pid(&self) -> String {
        self.property("MainPID")
    }

    /// One property of the unit.
    #[track_caller]
    pub(crate) fn property(&self, name: &str) -> String {
        self.machine.unit(self.unit).get(name).to_owned()
    }

    /// The files of the unit, with its drop-ins.
    pub(crate) fn unit_files(&self) -> String {
        self.machine.systemctl(&["cat", self.unit]).stdout
    }

    /// The main process of the generation that serves.
    pub(crate) fn serving(&self) -> Value {
        self.status()["serving"]["pid"].clone()
    }

    /// Asserts that `systemctl status` contains this text and names the serving generation, and that this generation has the listeners.
    #[track_caller]
    pub(crate) fn assert_status(&self, text: &str) {
        let serving = self.status()["serving"].clone();
        let listeners = serving["listeners"].as_array().map_or(0, Vec::len);
        let serves = format!("generation {} serves {listeners} listeners, ", serving["generation"]);
        self.assert_unit_shows("active (running)", &[&serves, text]);
        assert!(self.listens(&serving["pid"].to_string()), "{serving:#} does not have the sockets of {}", self.web);
    }

    /// Asserts that `systemctl status` shows this state, and these texts in the `Status:` line, which alone holds the daemon's words.
    #[track_caller]
    pub(crate) fn assert_unit_shows(&self, state: &str, texts: &[&str]) {
        let mut shown = String::new();
        let agreed = satisfied_within(LIMIT, || {
            shown = self.machine.run(&["systemctl", "status", "--no-pager", "--full", "--lines=0", self.unit]).stdout;
            let line = shown.lines().find_map(|line| line.trim().strip_prefix("Status: ")).unwrap_or_default();
            shown.contains(state) && texts.iter().all(|text| line.contains(text))
        });
        assert!(agreed, "systemctl status does not say {state:?} and {texts:?}:\n{shown}");
    }

    /// Whether all listeners of [`Scene::web`] belong to this process or its workers.
    pub(crate) fn listens(&self, pid: &str) -> bool {
        let list = format!("ls -l /proc/{pid}/fd $(pgrep -P {pid} | sed 's|.*|/proc/&/fd|')");
        let links = self.machine.run(&["sh", "-c", &list]).stdout;
        let inodes = listening(port(self.web));
        !inodes.is_empty() && inodes.iter().all(|inode| links.contains(&format!("socket:[{inode}]")))
    }

    /// How often the watchdog of systemd has ended the daemon.
    pub(crate) fn watchdog_timeouts(&self) -> usize {
        self.machine.journal(self.unit).matches("Watchdog timeout").count()
    }

    /// Asserts that the fd store has as many sockets as custody.
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

    /// Waits until the unit runs with another main process than this one.
    #[track_caller]
    pub(crate) fn until_another_main_pid(&self, before: &str) {
        until(LIMIT, "systemd to start the daemon again", || {
            let unit = self.machine.unit(self.unit);
            unit.get("ActiveState") == "active" && ![before, "0"].contains(&unit.get("MainPID"))
        });
    }
}

fn port(address: &str) -> u16 {
    address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

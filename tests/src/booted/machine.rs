//! Boots Debian with systemd in a container of systemd-nspawn, and runs commands in it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::unistd::geteuid;
use serde_json::Value;

use super::host::{ControlGroups, first_process_under, path_inside, process_inside, write_file};
use super::layer::Layer;
use super::{Setup, root};
use crate::netns;
use crate::poll::until;
use crate::process::Process;
use crate::proofs::{self, Init};
use crate::rig::{Answer, binary};
use crate::schema;
use crate::versions::cache_dir;

/// The limit of a boot, which normally takes seconds.
const BOOT: Duration = Duration::from_secs(120);

/// Where systemd-nspawn looks for mounts to pass in. It exists on a host whose own init is systemd.
const PROPAGATE: &str = "/run/systemd/nspawn/propagate";

/// A running machine. When it is dropped, even by a panic, nothing of it is left.
pub struct Machine {
    nspawn: Child,
    leader: Option<Process>,
    /// The machine's file system. It is unmounted before its directory is removed.
    layer: Layer,
    program_path: String,
    cgroups: ControlGroups,
}

/// The properties of a systemd unit.
#[derive(Debug, Clone)]
pub struct Unit(HashMap<String, String>);

impl Unit {
    /// The value of a property, empty if the unit does not have it.
    pub fn get(&self, property: &str) -> &str {
        self.0.get(property).map_or("", String::as_str)
    }
}

impl Machine {
    /// A machine as Debian installs it.
    pub fn setup() -> Setup {
        Setup::default()
    }

    #[track_caller]
    pub(super) fn boot(setup: &Setup) -> Machine {
        assert!(geteuid().is_root(), "this test boots a machine: it needs root; `cargo xtask test` runs it with sudo");
        let fetch = if setup.has_syslog { root::fetch_syslog } else { root::fetch };
        let root = netns::outside(|| fetch(&cache_dir())).unwrap_or_else(|error| panic!("{error:#}"));
        let layer = Layer::over(&root);
        layer.apply(setup);
        fs::create_dir_all(PROPAGATE).expect(PROPAGATE);
        let cgroups = ControlGroups::snapshot();
        let program_path = setup.program_path().to_owned();
        let nspawn = start_nspawn(&layer, &program_path);
        let mut machine = Machine { nspawn, leader: None, layer, program_path, cgroups };
        machine.until_booted();
        machine
    }

    /// Switches the machine off, boots it again from the same files, and waits until systemd has started everything. Its network is a new one.
    pub fn reboot(&mut self) {
        // The command may end together with the machine.
        self.try_run(&["systemctl", "poweroff"]);
        until(BOOT, "the machine to be off", || self.nspawn.try_wait().expect("waiting for a child").is_some());
        self.leader = None;
        self.nspawn = start_nspawn(&self.layer, &self.program_path);
        self.until_booted();
    }

    fn until_booted(&mut self) {
        let mut leader = None;
        until(BOOT, "the machine's first process", || {
            if let Some(status) = self.nspawn.try_wait().expect("waiting for a child") {
                panic!("systemd-nspawn ended, {status}:\n{}", self.log());
            }
            leader = first_process_under(self.nspawn.id());
            leader.is_some()
        });
        self.leader = leader;
        until(BOOT, "systemd to have started everything", || {
            let state = self.try_run(&["systemctl", "is-system-running"]);
            ["running", "degraded"].contains(&String::from_utf8_lossy(&state.stdout).trim())
        });
    }

    /// The text that the machine wrote to its console.
    pub fn log(&self) -> String {
        fs::read_to_string(self.layer.log()).unwrap_or_default()
    }

    /// Moves the calling thread into the machine's network namespace. Clients that the thread starts afterwards run in
    /// that namespace.
    pub fn enter_network(&self) {
        netns::enter_that_of(self.leader());
    }

    /// Runs a command in the machine.
    pub fn run(&self, words: &[&str]) -> Answer {
        Answer::from_output(self.try_run(words))
    }

    fn try_run(&self, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.leader().pid.to_string(), "--"]).args(words);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C");
        command.stdin(Stdio::null()).output().expect("running nsenter (package util-linux)")
    }

    /// Runs `systemctl`. Panics unless it succeeds.
    #[track_caller]
    pub fn systemctl(&self, words: &[&str]) -> Answer {
        self.run(&[&["systemctl"], words].concat()).expect_status(0)
    }

    /// All properties of a unit.
    #[track_caller]
    pub fn unit(&self, name: &str) -> Unit {
        let properties = self.systemctl(&["show", name]).stdout;
        let pairs = properties.lines().filter_map(|line| line.split_once('='));
        Unit(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// Runs a command of reloader in the machine.
    pub fn reloader(&self, words: &[&str]) -> Answer {
        self.run(&[&["reloader"], words].concat())
    }

    /// Writes a file in the machine.
    pub fn write(&self, path: &str, text: impl ToString) {
        write_file(&self.inside(path), &text.to_string());
    }

    /// The journal of a unit.
    pub fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--no-pager", "--output=cat", "--unit", unit]).stdout
    }

    /// A path of the machine as this process sees it, including the machine's mounts.
    pub fn inside(&self, path: &str) -> PathBuf {
        path_inside(self.leader(), path)
    }

    /// The processes of the machine that run this program, by their pids in the machine.
    pub fn pids_of(&self, program: &str) -> Vec<u32> {
        let found = self.run(&["pgrep", "-x", program]);
        found.stdout.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// The process with this pid in the machine, as this process sees it.
    pub fn process(&self, pid: u32) -> Option<Process> {
        process_inside(self.leader(), pid)
    }

    fn leader(&self) -> Process {
        self.leader.expect("a machine that has begun to boot")
    }
}

/// Boots what is in the layer.
fn start_nspawn(layer: &Layer, program_path: &str) -> Child {
    let mut command = Command::new("systemd-nspawn");
    command.arg("--directory").arg(layer.merged());
    let program = binary().canonicalize().expect("the program");
    command.arg(format!("--bind-ro={}:{}", program.display(), program_path));
    command.args([
        "--boot",
        "--private-network",
        "--register=no",
        "--keep-unit",
        "--resolv-conf=off",
        "--console=pipe",
    ]);
    // nspawn's lists have neither of them. The kernel still makes its own checks.
    command.args(["--capability=CAP_BPF,CAP_NET_ADMIN", "--system-call-filter=bpf pidfd_getfd"]);
    let log = File::create(layer.log()).expect("a log");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
    // A Ctrl-C ends the test, which ends the machine.
    command.process_group(0);
    command.spawn().unwrap_or_else(|error| panic!("systemd-nspawn (package systemd-container): {error}"))
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the machine's console:\n{}", self.log());
            if self.leader.is_some_and(|leader| leader.is_alive()) {
                eprintln!("its journal:\n{}", self.run(&["journalctl", "--no-pager", "--lines=200"]).stdout);
            }
        }
        let mut receipts = Value::Null;
        if self.leader.is_some_and(|leader| leader.is_alive()) {
            let (state, config) = (self.inside("/var/lib/reloader"), self.inside("/etc/reloader/reloader.toml"));
            receipts = proofs::print(&state, &config, Init::Systemd);
        }
        // When the first process ends, the kernel ends all others, whatever state they are in.
        match self.leader {
            Some(leader) => leader.end(),
            None => drop(self.nspawn.kill()),
        }
        let _ = self.nspawn.wait();
        self.cgroups.remove_newer();
        schema::assert_fits_at_the_end(&receipts);
    }
}

//! A machine that runs, and what is done in it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::unistd::geteuid;
use serde_json::Value;

use super::host::{ControlGroups, first_process_under};
use super::layer::Layer;
use super::{Setup, root};
use crate::netns;
use crate::poll::until;
use crate::process::Process;
use crate::proofs::{self, Init};
use crate::rig::{Answer, binary};
use crate::schema;
use crate::versions::cache_dir;

/// It takes seconds.
const BOOT: Duration = Duration::from_secs(120);

/// Where systemd-nspawn looks for what it may pass in. On a host whose own init is systemd it is there.
const PROPAGATE: &str = "/run/systemd/nspawn/propagate";

/// A machine that runs. Dropped, even by a panic, it leaves nothing behind.
pub struct Machine {
    nspawn: Child,
    leader: Option<Process>,
    /// Unmounted before its directory is removed.
    layer: Layer,
    cgroups: ControlGroups,
}

/// What systemd says of a unit.
#[derive(Debug, Clone)]
pub struct Unit(HashMap<String, String>);

impl Unit {
    /// A property, empty where there is none.
    pub fn get(&self, property: &str) -> &str {
        self.0.get(property).map_or("", String::as_str)
    }
}

impl Machine {
    /// A machine as Debian makes it.
    pub fn setup() -> Setup {
        Setup::default()
    }

    #[track_caller]
    pub(super) fn boot(setup: &Setup) -> Machine {
        assert!(geteuid().is_root(), "this test boots a machine: it needs root; `cargo xtask test` runs it with sudo");
        let root = netns::outside(|| root::fetch(&cache_dir())).unwrap_or_else(|error| panic!("{error:#}"));
        let layer = Layer::over(&root);
        layer.lay(setup);
        fs::create_dir_all(PROPAGATE).expect(PROPAGATE);
        let before = ControlGroups::now();
        let mut command = Command::new("systemd-nspawn");
        command.arg("--directory").arg(layer.merged());
        command.arg(format!(
            "--bind-ro={}:/usr/local/bin/reloader",
            binary().canonicalize().expect("the program").display()
        ));
        command.args([
            "--boot",
            "--private-network",
            "--register=no",
            "--keep-unit",
            "--resolv-conf=off",
            "--console=pipe",
        ]);
        // Neither is in nspawn's list; the kernel's own checks stand.
        command.args(["--capability=CAP_BPF,CAP_NET_ADMIN", "--system-call-filter=bpf pidfd_getfd"]);
        let log = File::create(layer.log()).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        // A Ctrl-C ends the test, which ends the machine.
        command.process_group(0);
        let nspawn =
            command.spawn().unwrap_or_else(|error| panic!("systemd-nspawn (package systemd-container): {error}"));
        let mut machine = Machine { nspawn, leader: None, layer, cgroups: before };
        machine.until_booted();
        machine
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
            let said = self.try_run(&["systemctl", "is-system-running"]);
            ["running", "degraded"].contains(&String::from_utf8_lossy(&said.stdout).trim())
        });
    }

    /// What it wrote to its console.
    pub fn log(&self) -> String {
        fs::read_to_string(self.layer.log()).unwrap_or_default()
    }

    /// Move the calling thread to its network: what is started from it is a client there.
    pub fn enter_network(&self) {
        let namespace = File::open(format!("/proc/{}/ns/net", self.leader().pid)).expect("the machine's network");
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
        netns::sysctl("net/ipv4/ip_local_port_range", &format!("{} 65535", netns::FIRST_CLIENT_PORT));
        netns::sysctl("net/ipv4/tcp_max_syn_backlog", "4096");
    }

    /// Run a command in it.
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

    /// `systemctl`; panics unless it succeeds.
    #[track_caller]
    pub fn systemctl(&self, words: &[&str]) -> Answer {
        self.run(&[&["systemctl"], words].concat()).expect_status(0)
    }

    /// All properties of a unit.
    #[track_caller]
    pub fn unit(&self, name: &str) -> Unit {
        let said = self.systemctl(&["show", name]).stdout;
        let pairs = said.lines().filter_map(|line| line.split_once('='));
        Unit(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// `reloader … --json`, or any other command of it.
    pub fn reloader(&self, words: &[&str]) -> Answer {
        self.run(&[&["reloader"], words].concat())
    }

    /// Write a file in it.
    pub fn write(&self, path: &str, text: impl ToString) {
        let file = self.inside(path);
        fs::create_dir_all(file.parent().expect("a file is in a directory")).expect("its directory");
        fs::write(file, text.to_string()).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// The journal of a unit.
    pub fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--no-pager", "--output=cat", "--unit", unit]).stdout
    }

    /// A path of the machine as this process sees it, mounts of the machine included.
    pub fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader().pid))
    }

    /// Its processes that run this program, by the pids that they have in there.
    pub fn pids_of(&self, program: &str) -> Vec<u32> {
        let said = self.run(&["pgrep", "-x", program]);
        said.stdout.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn leader(&self) -> Process {
        self.leader.expect("a machine that has begun to boot")
    }
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
        // The end of its first process is the end of all others, whatever state they are in.
        match self.leader {
            Some(leader) => leader.end(),
            None => drop(self.nspawn.kill()),
        }
        let _ = self.nspawn.wait();
        self.cgroups.remove_others();
        schema::assert_fits_at_the_end(&receipts);
    }
}

//! A container as an engine makes one, but for its image: namespaces of its own in which reloader is PID 1, with a /proc of these, a /sys
//! and a /proc/sys that are read only, and what it is given of capabilities and system calls. Its files are the host's.

mod setup;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::unistd::{User, chown};
use serde_json::Value;

use crate::booted::first_process_under;
use crate::config::Config;
use crate::process::Process;
use crate::proofs::{self, Init};
use crate::rig::{Answer, binary};
use crate::schema;
use crate::{netns, poll};

pub use setup::Setup;

/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// One that runs, or has run. Dropped, even by a panic, it leaves nothing behind.
pub struct Container {
    dir: tempfile::TempDir,
    /// Ends with the status of the container's first process.
    unshare: Child,
    init: Process,
    /// The file that the kernel names its process namespace by.
    namespace: PathBuf,
    setup: Setup,
}

impl Container {
    /// One with this HAProxy configuration, to be adapted and started.
    pub fn with(config: &Config) -> Setup {
        Setup::new(config)
    }

    fn start(setup: Setup) -> Container {
        let dir = tempfile::Builder::new().prefix("container-").tempdir().expect("a temporary directory");
        fs::write(dir.path().join("haproxy.cfg"), &setup.config).expect("writing haproxy.cfg");
        fs::write(dir.path().join("reloader.toml"), setup.toml(dir.path())).expect("writing reloader.toml");
        if setup.is_nobody {
            give_to_nobody(dir.path());
        }
        let log = File::create(dir.path().join("log")).expect("a log");
        let mut command = setup.run(&[reloader(dir.path()), vec!["daemon".into()]].concat());
        command.stdout(log.try_clone().expect("dup")).stderr(log);
        let mut unshare = command.spawn().unwrap_or_else(|error| panic!("unshare (package util-linux): {error}"));
        let mut init = None;
        poll::until(LIMIT, "the container's first process", || {
            let ended = unshare.try_wait().expect("waiting for a child");
            assert!(ended.is_none(), "it ended: {}", fs::read_to_string(dir.path().join("log")).unwrap_or_default());
            init = first_process_under(unshare.id());
            init.is_some()
        });
        let init = init.expect("a first process");
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", init.pid)).expect("its process namespace");
        Container { dir, unshare, init, namespace, setup }
    }

    /// Wait until something serves; panics, with the log, if it ends instead.
    #[track_caller]
    fn until_ready(&mut self) {
        poll::until(LIMIT, "the container to serve", || {
            let ended = self.unshare.try_wait().expect("waiting for a child");
            assert!(ended.is_none(), "the container has ended, {ended:?}:\n{}", self.log());
            // Before it has an own program, /proc and /sys are not what they will be.
            self.path("run/control.sock").exists() && self.status().at("/serving/pid").is_u64()
        });
    }

    /// Its first process, as the host sees it.
    pub fn init(&self) -> Process {
        self.init
    }

    /// As `docker kill -s`.
    pub fn kill(&self, signal: Signal) {
        self.init.signal(signal);
    }

    /// As `docker exec`.
    #[track_caller]
    pub fn exec(&self, words: &[&str]) -> Answer {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.init.pid))
            .args(["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"]);
        if self.setup.user_namespace {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").args(self.setup.confined(words));
        Answer::from_command(command)
    }

    /// The same with reloader's command line.
    #[track_caller]
    pub fn reloader(&self, words: &[&str]) -> Answer {
        let program = reloader(self.dir.path());
        let program: Vec<&str> = program.iter().map(String::as_str).collect();
        self.exec(&[&program, words].concat())
    }

    /// `status --json`.
    #[track_caller]
    pub fn status(&self) -> Answer {
        self.reloader(&["status", "--json"])
    }

    /// All receipts, oldest first.
    pub fn receipts(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("state/receipts.jsonl")).unwrap_or_default();
        // The last line may be under way.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Do something, and wait for one more receipt.
    #[track_caller]
    pub fn until_receipt(&self, what: impl FnOnce()) -> Value {
        let before = self.receipts().len();
        what();
        poll::until(LIMIT, "a receipt", || self.receipts().len() > before);
        self.receipts().swap_remove(before)
    }

    /// Move the calling thread to its network, where it is a client; it stays outside of all other namespaces.
    pub fn enter_network(&self) {
        let namespace = File::open(format!("/proc/{}/ns/net", self.init.pid)).expect("the container's network");
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
        netns::sysctl("net/ipv4/ip_local_port_range", &format!("{} 65535", netns::FIRST_CLIENT_PORT));
        netns::sysctl("net/ipv4/tcp_max_syn_backlog", "4096");
    }

    /// All processes in it, zombies among them, with their states as in proc_pid_stat(5).
    pub fn processes(&self) -> Vec<(i32, char)> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_in = |pid: &i32| fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|found| found == self.namespace);
        let state = |pid: i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, stat.rsplit_once(") ")?.1.chars().next()?))
        };
        pids.filter(is_in).filter_map(state).collect()
    }

    /// Wait until its first process has ended, and with it all others; gives its status.
    #[track_caller]
    pub fn until_ended(&mut self) -> i32 {
        let mut status = None;
        poll::until(LIMIT, "the container to end", || {
            status = self.unshare.try_wait().expect("waiting for a child");
            status.is_some()
        });
        assert_eq!(self.processes(), [], "processes outlived their namespace");
        status.and_then(|status| status.code()).unwrap_or_else(|| panic!("{status:?}: {}", self.log()))
    }

    /// What its processes have said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Replace HAProxy's configuration.
    pub fn configure(&self, config: &Config) {
        config.write(&self.path("haproxy.cfg"));
    }

    /// A path of its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the container's log:\n{}", self.log());
        }
        let receipts = proofs::print(&self.path("state"), &self.path("reloader.toml"), Init::Container);
        // The end of its first process is the end of all others, whatever state they are in.
        if self.unshare.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.init.end();
        }
        let _ = self.unshare.wait();
        schema::assert_fits_at_the_end(&receipts);
    }
}

/// The program of the container's own, if it has one.
fn reloader(dir: &Path) -> Vec<String> {
    let own = dir.join("reloader");
    let program = if own.exists() { own } else { binary() };
    vec![program.display().to_string(), "--config".into(), dir.join("reloader.toml").display().to_string()]
}

/// The container's directory, with a copy of the program: the checkout is closed to others than root.
fn give_to_nobody(dir: &Path) {
    let own = dir.join("reloader");
    fs::copy(binary(), &own).unwrap_or_else(|error| panic!("{}: {error}", own.display()));
    let nobody = User::from_name("nobody").ok().flatten().expect("a user `nobody`");
    chown(dir, Some(nobody.uid), Some(nobody.gid)).expect("chown");
}

//! Makes a container as an engine does, without an image: reloader is PID 1 in its own namespaces. It has a /proc of
//! these, a read-only /sys and /proc/sys, and the capabilities and system calls that a test gives it. Its files are the
//! host's.

mod setup;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

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

/// No step of a container takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// A container that runs or has run. When it is dropped, even by a panic, nothing of it is left.
pub struct Container {
    dir: tempfile::TempDir,
    /// Ends with the status of the container's first process.
    unshare: Child,
    init: Process,
    /// The target of the kernel's link that names its process namespace.
    namespace: PathBuf,
    setup: Setup,
}

impl Container {
    /// Begins the set-up of a container with this HAProxy configuration.
    pub fn with(config: &Config) -> Setup {
        Setup::new(config)
    }

    fn start(setup: Setup) -> Container {
        let dir = tempfile::Builder::new().prefix("container-").tempdir().expect("a temporary directory");
        fs::write(dir.path().join("haproxy.cfg"), &setup.config).expect("writing haproxy.cfg");
        fs::write(dir.path().join("reloader.toml"), setup.toml(dir.path())).expect("writing reloader.toml");
        if setup.runs_as_nobody {
            give_to_nobody(dir.path());
        }
        let log = File::create(dir.path().join("log")).expect("a log");
        let mut command = setup.run(&[reloader(dir.path()), vec!["daemon".into()]].concat());
        command.stdout(log.try_clone().expect("dup")).stderr(log);
        let mut unshare = command.spawn().unwrap_or_else(|error| panic!("unshare (package util-linux): {error}"));
        let mut init = None;
        poll::until(LIMIT, "the container's first process", || {
            let ended = unshare.try_wait().expect("waiting for a child");
            assert!(
                ended.is_none(),
                "the container has ended: {}",
                fs::read_to_string(dir.path().join("log")).unwrap_or_default()
            );
            init = first_process_under(unshare.id());
            init.is_some()
        });
        let init = init.expect("a first process");
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", init.pid)).expect("its process namespace");
        Container { dir, unshare, init, namespace, setup }
    }

    /// Waits until a generation serves. Panics with the log if the container ends instead.
    #[track_caller]
    fn until_ready(&mut self) {
        poll::until(LIMIT, "the container to serve", || {
            let ended = self.unshare.try_wait().expect("waiting for a child");
            assert!(ended.is_none(), "the container has ended, {ended:?}:\n{}", self.log());
            // Until it has run its own program, /proc and /sys are not in their final state.
            self.path("run/control.sock").exists() && self.status().at("/serving/pid").is_u64()
        });
    }

    /// The container's first process, as the host sees it.
    pub fn init(&self) -> Process {
        self.init
    }

    /// Sends a signal, as `docker kill -s` does.
    pub fn kill(&self, signal: Signal) {
        self.init.signal(signal);
    }

    /// Runs a command in the container, as `docker exec` does.
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

    /// Runs a command of reloader in the container.
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
        // The last line may not be complete yet.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Runs `action`, and waits for one more receipt.
    #[track_caller]
    pub fn until_receipt(&self, action: impl FnOnce()) -> Value {
        let before = self.receipts().len();
        action();
        poll::until(LIMIT, "a receipt", || self.receipts().len() > before);
        self.receipts().swap_remove(before)
    }

    /// Moves the calling thread into the container's network, where it is a client. It stays outside of all its other
    /// namespaces.
    pub fn enter_network(&self) {
        netns::enter_that_of(self.init);
    }

    /// All processes in the container, including zombies, with their states as in proc_pid_stat(5).
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

    /// Waits until the first process has ended, and with it all others. Gives its status.
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

    /// The output of its processes.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Replaces HAProxy's configuration.
    pub fn configure(&self, config: &Config) {
        config.write(&self.path("haproxy.cfg"));
    }

    /// A path in the container's directory.
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
        // When the first process ends, the kernel ends all others, whatever state they are in.
        if self.unshare.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.init.end();
        }
        let _ = self.unshare.wait();
        schema::assert_fits_at_the_end(&receipts);
    }
}

/// The words that run reloader: by the container's own copy of the program, if it has one.
fn reloader(dir: &Path) -> Vec<String> {
    let own = dir.join("reloader");
    let program = if own.exists() { own } else { binary() };
    vec![program.display().to_string(), "--config".into(), dir.join("reloader.toml").display().to_string()]
}

/// Gives the container's directory to `nobody`, with a copy of the program: only root can read the checkout.
fn give_to_nobody(dir: &Path) {
    let own = dir.join("reloader");
    fs::copy(binary(), &own).unwrap_or_else(|error| panic!("{}: {error}", own.display()));
    let nobody = User::from_name("nobody").ok().flatten().expect("a user `nobody`");
    chown(dir, Some(nobody.uid), Some(nobody.gid)).expect("chown");
}

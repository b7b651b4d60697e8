//! Runs a reloader daemon with a HAProxy, in its own directory and in the namespace of the calling thread.
//!
//! When a rig is dropped, even by a panic, it leaves no process behind.

mod cleanup;
mod command;
mod notify;
mod setup;
mod spawn;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::config::Config;
use crate::poll::{satisfied_within, until};
use crate::process::Process;
use crate::proofs::{self, Init};
use crate::schema;
use notify::Notify;

pub use command::{Answer, Pending};
pub use setup::Setup;
pub use spawn::binary;

const READY: Duration = Duration::from_secs(40);

/// The daemon and its directory.
pub struct Rig {
    dir: tempfile::TempDir,
    setup: Setup,
    notify: Notify,
    daemon: Option<Pending>,
}

impl Rig {
    /// Begins the set-up of a rig with this HAProxy configuration.
    pub fn with(config: &Config) -> Setup {
        Setup::new(config)
    }

    fn prepare(setup: Setup) -> Rig {
        // A short name, because the path of a Unix socket can have at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("rig-").tempdir().expect("a temporary directory");
        let notify = Notify::listen(&dir.path().join("notify.sock"), setup.fd_store);
        let rig = Rig { dir, setup, notify, daemon: None };
        fs::write(rig.haproxy_cfg(), &rig.setup.config).expect("writing haproxy.cfg");
        fs::write(rig.path("reloader.toml"), rig.setup.toml(rig.dir.path())).expect("writing reloader.toml");
        rig
    }

    /// The rig's directory: its path is on the command line of every process of the rig.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the rig's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// HAProxy's configuration file.
    pub fn haproxy_cfg(&self) -> PathBuf {
        self.path("haproxy.cfg")
    }

    /// Replaces HAProxy's configuration. The next reload reads it.
    pub fn configure(&self, config: &Config) {
        config.write(&self.haproxy_cfg());
    }

    /// Uses the runtime directory of another rig, whose daemon does not run.
    pub fn share_runtime_dir(&self, other: &Rig) {
        let own = self.path("run").display().to_string();
        let toml = fs::read_to_string(self.path("reloader.toml")).expect("reading reloader.toml");
        let shared = other.path("run").display().to_string();
        fs::write(
            self.path("reloader.toml"),
            toml.replace(&format!("runtime-dir = \"{own}\""), &format!("runtime-dir = \"{shared}\"")),
        )
        .expect("writing reloader.toml");
    }

    /// Starts the daemon and waits until it says READY=1. Panics with its log if it does not.
    #[track_caller]
    pub fn start_daemon(&mut self) {
        assert!(!self.daemon_runs(), "the daemon runs already");
        self.notify.forget();
        self.daemon = Some(self.spawn_daemon());
        let ready =
            satisfied_within(READY, || self.notify.lines().iter().any(|line| line == "READY=1") || !self.daemon_runs());
        assert!(ready && self.daemon_runs(), "the daemon did not become ready:\n{}", self.log());
    }

    /// Starts a daemon that is expected to end by itself, and gives its answer.
    #[track_caller]
    pub fn try_start_daemon(&mut self) -> Answer {
        assert!(!self.daemon_runs(), "the daemon runs already");
        self.spawn_daemon().wait()
    }

    /// Starts the daemon again. If it runs, it is ended by SIGTERM first.
    #[track_caller]
    pub fn restart_daemon(&mut self) {
        if self.daemon_runs() {
            self.terminate_daemon();
        }
        self.start_daemon();
    }

    /// Kills the daemon with SIGKILL.
    pub fn kill9_daemon(&mut self) {
        self.signal_daemon(Signal::SIGKILL);
        self.until_daemon_ends();
    }

    /// Sends SIGTERM to the daemon, and gives its answer once it has ended.
    #[track_caller]
    pub fn terminate_daemon(&mut self) -> Answer {
        self.signal_daemon(Signal::SIGTERM);
        self.until_daemon_ends()
    }

    /// Waits for a daemon that ends by itself.
    #[track_caller]
    pub fn until_daemon_ends(&mut self) -> Answer {
        self.daemon.take().expect("a daemon was started").wait()
    }

    /// Sends a signal to the daemon.
    pub fn signal_daemon(&self, signal: Signal) {
        self.daemon_process().signal(signal);
    }

    /// The daemon's process.
    pub fn daemon_process(&self) -> Process {
        let pid = self.daemon.as_ref().expect("a daemon was started").pid();
        Process::with_pid(pid as i32).expect("a child that was not waited for is there")
    }

    fn daemon_runs(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(Pending::is_running)
    }

    /// The output of this rig's daemons, including HAProxy's own lines.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// The messages of the daemon to its service manager since its start: `READY=1`, `STATUS=…`.
    pub fn notified(&self) -> Vec<String> {
        self.notify.lines()
    }

    /// Runs a command of reloader to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Answer {
        self.spawn(args).wait()
    }

    /// Starts a command of reloader and returns.
    pub fn spawn(&self, args: &[&str]) -> Pending {
        Pending::start(self.reloader(args))
    }

    /// Runs a command of reloader as `user`. The number `user` is its user id and its only group id.
    #[track_caller]
    pub fn run_as(&self, user: u32, args: &[&str]) -> Answer {
        let mut command = self.reloader_for_all(args);
        command.uid(user).gid(user);
        Pending::start(command).wait()
    }

    /// Runs a command of reloader through another program, such as `setpriv` or `unshare`. That program takes the command
    /// as its last arguments.
    #[track_caller]
    pub fn run_under(&self, program: &[&str], args: &[&str]) -> Answer {
        let reloader = self.reloader(args);
        let mut command = std::process::Command::new(program[0]);
        command.args(&program[1..]).arg(reloader.get_program()).args(reloader.get_args());
        Pending::start(command).wait()
    }

    /// Runs a command on a terminal. Gives what the terminal showed.
    #[track_caller]
    pub fn run_on_terminal(&self, environment: &[(&str, &str)], args: &[&str]) -> Answer {
        let reloader = self.reloader(args);
        let words = std::iter::once(reloader.get_program()).chain(reloader.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let mut command = std::process::Command::new("script");
        command.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
        command.env_remove("NO_COLOR").envs(environment.iter().copied());
        Pending::start(command).wait()
    }

    /// Runs `reload --json`.
    #[track_caller]
    pub fn reload(&self) -> Answer {
        self.run(&["reload", "--json"])
    }

    /// Runs `status --json`. Panics unless it succeeds.
    #[track_caller]
    pub fn status(&self) -> Answer {
        self.run(&["status", "--json"]).expect_status(0)
    }

    /// The warnings in the status, as text.
    #[track_caller]
    pub fn warnings(&self) -> String {
        self.status().at("/warnings").to_string()
    }

    /// The daemon's records of its generations, as text. Empty if there are none.
    pub fn generation_records(&self) -> String {
        fs::read_to_string(self.path("run/generations.json")).unwrap_or_default()
    }

    /// Waits until the daemon has begun to start a generation.
    #[track_caller]
    pub fn until_generation_starts(&self) {
        until(Duration::from_secs(20), "a generation to start", || self.generation_records().contains("\"starting\""));
    }

    /// Runs `history --json`, which lists the newest receipt first. Panics unless it succeeds.
    #[track_caller]
    pub fn history(&self) -> Answer {
        self.run(&["history", "--json", "-n", "1000"]).expect_status(0)
    }

    /// The newest receipt in the daemon's journal.
    #[track_caller]
    pub fn last_receipt(&self) -> Value {
        serde_json::from_str(self.history().stdout.lines().next().expect("a receipt")).expect("JSON")
    }

    /// The root process of the serving generation, if there is one.
    #[track_caller]
    pub fn serving(&self) -> Option<Process> {
        let pid = self.status().at("/serving/pid").as_i64()?;
        Process::with_pid(i32::try_from(pid).ok()?)
    }

    /// The pid of the serving root process. Panics if nothing serves.
    #[track_caller]
    pub fn serving_pid(&self) -> i32 {
        self.serving().expect("a serving generation").pid
    }

    /// Waits until a process other than `old` serves.
    #[track_caller]
    pub fn until_replaced(&self, old: Process) -> Process {
        let mut new = old;
        until(Duration::from_secs(20), "another generation to serve", || {
            new = self.serving().unwrap_or(old);
            new != old
        });
        new
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        if self.daemon_runs() {
            // `reloader stop` comes first, so that a fault in it shows in the log. The daemon is then ended in any
            // case.
            let mut stop = self.spawn(&["stop"]);
            stop.wait_within(Duration::from_secs(10));
        }
        self.daemon = None;
        let receipts = proofs::print(&self.path("state"), &self.path("reloader.toml"), Init::None);
        cleanup::end_all(self.dir.path());
        schema::assert_fits_at_the_end(&receipts);
    }
}

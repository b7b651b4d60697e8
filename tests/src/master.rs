//! Runs HAProxy in master-worker mode, as its own unit does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::NamedTempFile;

use crate::haproxy::{HaproxyBinary, info, runtime};
use crate::poll::until;
use crate::process::Process;

const LIMIT: Duration = Duration::from_secs(20);

/// A master process. When it is dropped, it is ended with its workers.
pub struct Master {
    child: Child,
    /// The master's process.
    pub process: Process,
    stats: PathBuf,
    cli: PathBuf,
    log: NamedTempFile,
}

impl Master {
    /// Starts the master with its CLI on `cli`, and waits until its worker answers on the configuration's stats socket.
    #[track_caller]
    pub fn start(
        binary: &HaproxyBinary,
        config: &Path,
        cli: &Path,
        stats: &Path,
        environment: &[(&str, &str)],
    ) -> Master {
        let log = NamedTempFile::new().expect("a temporary file");
        let mut command = Command::new(&binary.path);
        command.arg("-W").arg("-S").arg(cli).arg("-f").arg(config);
        command
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.reopen().expect("the log"));
        let child = command.spawn().expect("haproxy");
        let process = Process::with_pid(child.id() as i32).expect("the master");
        let master = Master { child, process, stats: stats.to_owned(), cli: cli.to_owned(), log };
        until(LIMIT, "a worker", || master.worker().is_some_and(|worker| process.children().contains(&worker)));
        master.until_cli_answers();
        master
    }

    /// The worker that answers on the stats socket.
    pub fn worker(&self) -> Option<Process> {
        Process::with_pid(info(&self.stats, "Pid").ok()?.parse().ok()?)
    }

    /// Sends SIGUSR2, as `systemctl reload` does, and waits until another worker answers.
    #[track_caller]
    pub fn reload(&self) -> Process {
        let old = self.process.children();
        self.process.signal(Signal::SIGUSR2);
        // The worker is asked only then: an old worker that is stopped would not answer.
        until(LIMIT, "another process", || self.process.children().iter().any(|child| !old.contains(child)));
        until(LIMIT, "another worker", || self.worker().is_some_and(|worker| !old.contains(&worker)));
        self.until_cli_answers();
        self.worker().expect("a worker")
    }

    /// Waits until the master serves its CLI, because from then on it reacts to SIGUSR2. While it starts, or executes
    /// itself again, it can lose a SIGUSR2 although its worker serves already: seen on 2.6, on a busy machine.
    #[track_caller]
    fn until_cli_answers(&self) {
        // Unlike a worker's socket, the master's CLI stays open after an answer.
        let serves = || runtime(&self.cli, "show proc; quit").is_ok_and(|answer| answer.contains("worker"));
        until(LIMIT, "the master's CLI", serves);
    }

    /// What the master and its workers have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    /// Kills the master and its workers at once, with SIGKILL.
    pub fn kill(&self) {
        let workers = self.process.children();
        self.process.signal(Signal::SIGKILL);
        workers.iter().for_each(Process::end);
        self.process.end();
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

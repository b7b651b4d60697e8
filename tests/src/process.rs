//! Identifies other processes by pid and start time, and signals them.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::poll::{satisfied_within, until};

/// A process. The start time tells it from a later process with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// The pid.
    pub pid: i32,
    /// The start time in clock ticks since boot, as in /proc/PID/stat.
    pub start_time: u64,
}

impl Process {
    /// The process that has this pid now.
    pub fn with_pid(pid: i32) -> Option<Process> {
        let fields = stat(pid)?;
        Some(Process { pid, start_time: fields.get(19)?.parse().ok()? })
    }

    /// Whether it runs. A zombie does not.
    pub fn is_alive(&self) -> bool {
        let running = stat(self.pid).is_some_and(|fields| fields[0] != "Z");
        running && Process::with_pid(self.pid) == Some(*self)
    }

    /// Sends a signal to this process. If another process has its pid now, no signal is sent.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Its nice value, if it is there: 19 is the lowest priority.
    pub fn nice(&self) -> Option<i32> {
        stat(self.pid)?.get(16)?.parse().ok()
    }

    /// Sends SIGSTOP, and waits until every thread is stopped: they run on for a moment after the signal was sent.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        until(Duration::from_secs(5), &format!("process {} to be stopped", self.pid), || threads_are_stopped(self.pid));
    }

    /// Whether the signal is pending: the process is stopped, or has not run since it was sent.
    pub fn has_pending(&self, signal: Signal) -> bool {
        ["SigPnd:", "ShdPnd:"].iter().any(|key| self.has_in_mask(key, signal))
    }

    /// Whether the process has a handler for the signal.
    pub fn catches(&self, signal: Signal) -> bool {
        self.has_in_mask("SigCgt:", signal)
    }

    fn has_in_mask(&self, key: &str, signal: Signal) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix(key));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        mask >> (signal as u64 - 1) & 1 == 1
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub fn until_gone(&self, limit: Duration) {
        until(limit, &format!("process {} to end", self.pid), || !self.is_alive());
    }

    /// Kills the process with SIGKILL, and waits until it has ended.
    pub fn end(&self) {
        self.signal(Signal::SIGKILL);
        satisfied_within(Duration::from_secs(5), || !self.is_alive());
    }

    /// The children at this moment.
    pub fn children(&self) -> Vec<Process> {
        all().filter(|child| stat(child.pid).is_some_and(|fields| fields[1] == self.pid.to_string())).collect()
    }
}

/// Every process that has all these words among its arguments.
pub fn with_arguments(words: &[&str]) -> Vec<Process> {
    let has = |process: &Process| {
        let line = cmdline(process.pid);
        words.iter().all(|word| line.split(' ').any(|argument| argument == *word))
    };
    all().filter(has).collect()
}

/// Every process whose command line mentions this path, except the calling one.
pub fn mentioning(path: &Path) -> Vec<Process> {
    let path = path.to_string_lossy();
    let mentions = |process: &Process| cmdline(process.pid).contains(&*path);
    all().filter(|process| process.pid != std::process::id() as i32).filter(mentions).collect()
}

/// Every process in the process namespace of `first`.
pub fn in_process_namespace_of(first: Process) -> Vec<Process> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = namespace(first.pid);
    all().filter(|process| wanted.is_some() && namespace(process.pid) == wanted).collect()
}

/// The status as a shell gives it: 128 plus the signal for a killed process.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Waits for a child as PID 1. Meanwhile it also waits for orphans of the process namespace, which become children of PID
/// 1.
///
/// # Errors
/// If the process is not a child.
pub fn reap_until_ended(child: Pid) -> anyhow::Result<ExitStatus> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => return Ok(ExitStatus::from_raw(status << 8)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return Ok(ExitStatus::from_raw(signal as i32)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => anyhow::bail!("waiting for process {child}: {errno}"),
        }
    }
}

/// The guards of holds in the calling thread's network namespace. Their command line does not say which hold they
/// belong to.
pub fn guards() -> Vec<Process> {
    let own = fs::read_link("/proc/thread-self/ns/net").expect("the thread's namespace");
    let is_in_namespace = |process: &Process| {
        fs::read_link(format!("/proc/{}/ns/net", process.pid)).is_ok_and(|namespace| namespace == own)
    };
    let runs_reloader = |process: &Process| {
        fs::read_link(format!("/proc/{}/exe", process.pid)).is_ok_and(|program| program.ends_with("reloader"))
    };
    all()
        .filter(|process| cmdline(process.pid).ends_with(" guard"))
        .filter(runs_reloader)
        .filter(is_in_namespace)
        .collect()
}

/// The command line of a process, its words separated by spaces.
pub fn cmdline(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
}

fn all() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(Process::with_pid)
}

fn threads_are_stopped(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut states = threads.map(|thread| fields(&thread.path().join("stat")).map(|fields| fields[0].clone()));
    states.all(|state| state.is_none_or(|state| state == "T"))
}

fn stat(pid: i32) -> Option<Vec<String>> {
    fields(Path::new(&format!("/proc/{pid}/stat")))
}

/// The fields after the name, which may itself contain spaces and brackets: first the state, then the parent.
fn fields(stat: &Path) -> Option<Vec<String>> {
    let text = fs::read_to_string(stat).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_ascii_whitespace().map(str::to_owned).collect())
}

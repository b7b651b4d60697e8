//! Enforces a test's limit and cleans up after the test, from a process outside its namespaces.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;

use super::control_groups::ControlGroups;
use super::scratch::Scratch;
use crate::process::{Process, cmdline, exit_code, in_process_namespace_of};

/// The exit status of a test that was killed at its limit, as with timeout(1).
pub const KILLED: i32 = 124;

/// The exit status after a signal that asks the run to end.
const INTERRUPTED: i32 = 130;

/// The word that the inner process waits for.
pub(super) const GO: [u8; 2] = *b"go";

/// A command with its limit.
pub struct Run {
    /// The command is killed after this time.
    pub limit: Duration,
    /// The program and its arguments.
    pub words: Vec<String>,
}

/// Why the wait for the test is over.
enum Event {
    Ended(i32),
    TookTooLong,
    Interrupted,
}

impl Run {
    /// Runs the command. Gives its exit status, or `KILLED` if it took longer than its limit. It writes to this
    /// process's output.
    ///
    /// # Errors
    /// If the isolation cannot be made, which takes root, or if a part of it could not be removed.
    pub fn run(&self) -> Result<i32> {
        // Before the first thread starts: signals are read from the descriptor only.
        let signals = block_signals()?;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
        ensure!(nix::unistd::geteuid().is_root(), "isolating a test by namespaces takes root");
        let scratch = Scratch::create()?;
        let groups = ControlGroups::create(scratch.name());
        let event = self.run_inner(&signals, &scratch, &groups);
        // Cleaned up before an error of the run is returned, so that nothing stays in any case.
        groups.remove().and(scratch.remove())?;
        Ok(match event? {
            Event::Ended(status) => status,
            Event::TookTooLong => KILLED,
            Event::Interrupted => INTERRUPTED,
        })
    }

    /// The inner process has ended when this function returns, also with an error.
    fn run_inner(&self, signals: &SignalFd, scratch: &Scratch, groups: &ControlGroups) -> Result<Event> {
        let mut inner = self.start(scratch)?;
        let event = start_command(&mut inner, groups).and_then(|()| self.wait(signals, &mut inner));
        if !matches!(event, Ok(Event::Ended(_))) {
            self.kill(&mut inner, matches!(event, Ok(Event::TookTooLong)));
        }
        event
    }

    fn start(&self, scratch: &Scratch) -> Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(super::INNER).arg("--").args(&self.words).env("TMPDIR", scratch.path()).stdin(Stdio::piped());
        // unshare applies to the children: this process stays in its namespace.
        unshare(CloneFlags::CLONE_NEWPID).context("unshare(CLONE_NEWPID)")?;
        command.spawn().context("starting the inner process")
    }

    fn wait(&self, signals: &SignalFd, inner: &mut Child) -> Result<Event> {
        let deadline = Instant::now() + self.limit;
        loop {
            if let Some(status) = inner.try_wait()? {
                return Ok(Event::Ended(exit_code(status)));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Event::TookTooLong);
            }
            let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            // Rounded up: a poll of 0 ms would spin.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            if poll(&mut fds, timeout)? == 0 {
                continue;
            }
            let signal = signals.read_signal()?.map_or(0, |info| info.ssi_signo);
            if signal != Signal::SIGCHLD as u32 {
                return Ok(Event::Interrupted);
            }
        }
    }

    fn kill(&self, inner: &mut Child, is_late: bool) {
        let first = Process::with_pid(inner.id().cast_signed()).filter(|_| is_late);
        if let Some(first) = first {
            eprintln!("killed after its limit of {} s, while these ran:", self.limit.as_secs());
            for process in in_process_namespace_of(first) {
                eprintln!("  {}", cmdline(process.pid));
            }
        }
        // It is PID 1 of the namespace: the kernel kills all others with it, and waits for them.
        let _ = inner.kill();
        let _ = inner.wait();
    }
}

/// Puts the inner process into its groups and tells it to go on.
fn start_command(inner: &mut Child, groups: &ControlGroups) -> Result<()> {
    groups.add(inner.id())?;
    let go = inner.stdin.take().context("a pipe")?.write_all(&GO);
    go.context("the inner process has ended at once")
}

fn block_signals() -> Result<SignalFd> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?)
}

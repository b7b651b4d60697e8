//! Runs a test as the first process of its process namespace.

use std::io::Read;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use crate::process::{exit_code, reap_until_ended};

/// Runs the command to its end. Gives its exit status, or 128 plus the signal.
///
/// # Errors
/// If the namespaces cannot be prepared or the command cannot be started.
pub fn run(words: &[String]) -> Result<i32> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    ensure!(std::process::id() == 1, "the inner process is started by the outer one, as PID 1");
    wait_for_control_groups()?;
    // A program inherits the signals that the outer process has blocked.
    SigSet::empty().thread_set_mask()?;
    prepare_mounts()?;
    let (program, arguments) = words.split_first().context("a command without words")?;
    let mut command = Command::new(program);
    let child = command.args(arguments).stdin(Stdio::null()).spawn().with_context(|| format!("running {program}"))?;
    let status = reap_until_ended(Pid::from_raw(child.id().cast_signed()))?;
    Ok(exit_code(status))
}

/// Waits until the outer process has moved this one into its control groups. It then sends a word through the pipe.
fn wait_for_control_groups() -> Result<()> {
    let mut word = [0; 2];
    match std::io::stdin().read_exact(&mut word) {
        Ok(()) if word == super::outer::GO => Ok(()),
        _ => bail!("the outer process has ended"),
    }
}

/// Keeps the test's mounts inside, and mounts a new `/run`: a reloader that serves this machine keeps its files there.
fn prepare_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare(CLONE_NEWNS)")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("making all mounts private")?;
    mount("proc", "/proc", "proc", MountFlags::empty(), None).context("mounting /proc")?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), Some(c"mode=755")).context("mounting /run")?;
    std::fs::create_dir("/run/lock").context("/run/lock")
}

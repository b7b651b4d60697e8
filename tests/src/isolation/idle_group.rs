//! Makes a control group whose processes get only the time that no other process of the machine wants.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::control_groups::{move_to, remove_when_empty, roots, sweep};
use super::scratch::{is_abandoned, name_of_this_process};

const PREFIX: &str = "rlr-idle-";

/// The file that makes a group idle (Linux 5.15, Documentation/admin-guide/cgroup-v2.rst). `SCHED_IDLE` alone ranks a process only
/// within its own group: the group as a whole would get as much as that of a test.
const IDLE: &str = "cpu.idle";

/// The group. It is a child of the root, so that it is idle beside all other groups. When it is dropped, it is removed.
pub struct IdleGroup(PathBuf);

impl IdleGroup {
    /// Creates the group.
    ///
    /// # Errors
    /// If no hierarchy of control groups has `cpu.idle`.
    pub fn create() -> Result<IdleGroup> {
        let name = name_of_this_process(PREFIX)?;
        for root in roots() {
            let path = root.join(&name);
            // Only the processor's hierarchy has the file, and no file can be made in the others.
            if fs::create_dir(&path).is_err() {
                continue;
            }
            let group = IdleGroup(path);
            if fs::write(group.0.join(IDLE), "1").is_ok() {
                return Ok(group);
            }
        }
        bail!("no hierarchy of control groups has {IDLE}")
    }

    /// Removes the groups of processes that were killed. Only for a process that sees all others: in its own process
    /// namespace every group outside would seem to be abandoned.
    pub fn sweep() {
        sweep(&roots(), &|name| is_abandoned(name, PREFIX));
    }

    /// Moves a process into the group. What the process starts from then on is in the group too.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn add(&self, pid: u32) -> Result<()> {
        move_to(&self.0, pid)
    }
}

impl Drop for IdleGroup {
    fn drop(&mut self) {
        if let Err(error) = remove_when_empty(&self.0) {
            eprintln!("{error:#}");
        }
    }
}

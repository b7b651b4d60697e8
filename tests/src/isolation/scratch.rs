//! A test's directory for temporary files, and what a killed run has left of such.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::control_groups;
use crate::process::Process;

/// Short: the path of a unix socket below it has 107 bytes at most.
const PREFIX: &str = "rlr-";

/// Open to other users, whom some tests run programs as.
const MODE: u32 = 0o1777;

/// The directory; dropped, it is removed.
pub(super) struct Scratch {
    path: PathBuf,
    name: String,
}

impl Scratch {
    pub(super) fn create() -> Result<Scratch> {
        let own = Process::with_pid(std::process::id().cast_signed()).context("this process in /proc")?;
        let name = format!("{PREFIX}{}-{}", own.pid, own.start_time);
        let path = std::env::temp_dir().join(&name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let scratch = Scratch { path, name };
        fs::set_permissions(&scratch.path, Permissions::from_mode(MODE))?;
        Ok(scratch)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its last component, which names its owner: `rlr-PID-STARTTIME`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}

/// Removes the directories and the control groups of runs whose outer process was killed.
pub fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(is_abandoned)
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            eprintln!("{} could not be removed: {error}", entry.path().display());
        }
    }
    control_groups::sweep(&is_abandoned);
}

/// Whether the name is one of ours and the process in it has ended.
fn is_abandoned(name: &str) -> bool {
    let owner = || {
        let (pid, start_time) = name.strip_prefix(PREFIX)?.split_once('-')?;
        Some(Process { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
    };
    owner().is_some_and(|owner| !owner.is_alive())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_ended_processes_are_abandoned() {
        let own = Process::with_pid(std::process::id().cast_signed()).unwrap();
        assert!(!is_abandoned(&format!("rlr-{}-{}", own.pid, own.start_time)));
        assert!(is_abandoned(&format!("rlr-{}-{}", own.pid, own.start_time + 1)));
        assert!(!is_abandoned("rlr-x-1") && !is_abandoned("rig-1-1") && !is_abandoned("rlr-1"));
    }
}

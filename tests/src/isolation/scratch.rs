//! Makes a test's directory for temporary files, and removes those of killed runs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::control_groups;
use crate::process::Process;

/// The prefix is short because the path of a Unix socket in the directory can have at most 107 bytes.
const PREFIX: &str = "rlr-";

/// Other users may enter the directory, because some tests run programs as another user.
const MODE: u32 = 0o1777;

/// The directory. `remove` removes it.
pub(super) struct Scratch {
    path: PathBuf,
    name: String,
}

impl Scratch {
    pub(super) fn create() -> Result<Scratch> {
        let name = name_of_this_process(PREFIX)?;
        let path = std::env::temp_dir().join(&name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let scratch = Scratch { path, name };
        fs::set_permissions(&scratch.path, Permissions::from_mode(MODE))?;
        Ok(scratch)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The last component of its path, which names its owner: `rlr-PID-STARTTIME`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Removes the directory with its contents.
    pub(super) fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.path).with_context(|| format!("{} could not be removed", self.path.display()))
    }
}

/// The prefix followed by `PID-STARTTIME` of this process. A directory or group with this name belongs to this process.
/// It is abandoned when the process has ended.
pub(super) fn name_of_this_process(prefix: &str) -> Result<String> {
    let own = Process::with_pid(std::process::id().cast_signed()).context("this process in /proc")?;
    Ok(format!("{prefix}{}-{}", own.pid, own.start_time))
}

/// Removes the directories and the control groups of runs whose outer process was killed.
pub fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| is_abandoned(name, PREFIX))
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            eprintln!("{} could not be removed: {error}", entry.path().display());
        }
    }
    control_groups::sweep(&control_groups::own_groups(), &|name| is_abandoned(name, PREFIX));
}

/// Whether the name has this prefix and names a process that has ended.
pub(super) fn is_abandoned(name: &str, prefix: &str) -> bool {
    let owner = || {
        let (pid, start_time) = name.strip_prefix(prefix)?.split_once('-')?;
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
        let is_abandoned = |name: &str| is_abandoned(name, PREFIX);
        assert!(!is_abandoned(&name_of_this_process(PREFIX).unwrap()));
        assert!(is_abandoned(&format!("rlr-{}-{}", own.pid, own.start_time + 1)));
        assert!(!is_abandoned("rlr-x-1") && !is_abandoned("rig-1-1") && !is_abandoned("rlr-1"));
    }
}

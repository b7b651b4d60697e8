//! Makes a control group (cgroups(7), version 2) for the processes of a generation while it starts. A program that is attached to the group runs
//! for these processes alone.

mod files;
mod home;
mod removal;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use self::files::{PREFIX, PROCESSES};
use self::home::Home;
pub(crate) use self::home::why_none;
pub(crate) use self::removal::{any_remaining, remove_left_behind, remove_remaining};
use super::procfs;

/// How many names are tried for a group.
const MOST_NAMES: u32 = 100;

/// A control group below the daemon's own. When it is dropped, its processes go to the daemon's group, and it is removed, now or later.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    path: PathBuf,
    /// `None` once it is being removed.
    directory: Option<File>,
    entrance: File,
}

impl ControlGroup {
    /// Makes a group.
    ///
    /// # Errors
    /// A sentence that says why this process cannot make groups.
    pub(crate) fn make() -> Result<ControlGroup, String> {
        let home = Home::find()?;
        if let Some(why) = home.why_not_entered() {
            return Err(why);
        }
        let mut number = 0;
        loop {
            number += 1;
            match ControlGroup::make_at(home.own.join(format!("{PREFIX}{}-{number}", std::process::id()))) {
                // Another daemon, of another pid namespace; or one that has just removed what it took for left behind.
                Err(error) if is_taken(&error) && number < MOST_NAMES => {}
                made => return made.map_err(|error| home.refusal(&error)),
            }
        }
    }

    fn make_at(path: PathBuf) -> io::Result<ControlGroup> {
        fs::create_dir(&path)?;
        match open(&path) {
            Ok((directory, entrance)) => Ok(ControlGroup { path, directory: Some(directory), entrance }),
            Err(error) => {
                // One that another daemon has locked, it is about to remove.
                if error.kind() != io::ErrorKind::WouldBlock {
                    fs::remove_dir(&path).ok();
                }
                Err(error)
            }
        }
    }

    /// Its directory, for people.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The group itself, to attach programs to.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_ref().expect("it is not being removed").as_fd()
    }

    /// The file into which a process writes that it enters (`cgroup.procs`).
    pub(crate) fn entrance(&self) -> BorrowedFd<'_> {
        self.entrance.as_fd()
    }

    /// The processes in it, by pid and start time (clock ticks since boot). None where another process has removed it.
    pub(crate) fn processes(&self) -> Vec<(u32, u64)> {
        let pids = files::processes(&self.path).unwrap_or_default().into_iter();
        pids.filter_map(|pid| Some((pid, procfs::start_time(pid)?))).collect()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            removal::remove(std::mem::take(&mut self.path), directory);
        }
    }
}

/// Locks a group that was just made. One without a lock was left by a daemon that was killed.
fn open(path: &Path) -> io::Result<(File, File)> {
    let directory = File::open(path)?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    let entrance = OpenOptions::new().write(true).open(path.join(PROCESSES))?;
    Ok((directory, entrance))
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound | io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_that_is_no_group_is_not_left() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("group");
        ControlGroup::make_at(path.clone()).unwrap_err();
        assert!(!path.exists());
    }
}

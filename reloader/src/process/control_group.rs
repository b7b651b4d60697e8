//! Makes a control group (cgroups(7), version 2) for the processes of a generation while it starts. A program that is attached to the group runs
//! for these processes alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FlockOperation, accessat, flock};

use super::procfs;

/// The beginning of the name of each group.
const PREFIX: &str = "reloader-start-";

/// How many names are tried for a group.
const MOST_NAMES: u32 = 100;

/// How often the processes of a group are moved out. A process that forks meanwhile leaves a child behind.
const MOVES: usize = 20;

/// A control group below the daemon's own. When it is dropped, its processes go to the daemon's group, and it is removed.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    path: PathBuf,
    directory: File,
    entrance: File,
}

impl ControlGroup {
    /// Makes a group.
    ///
    /// # Errors
    /// A sentence that says why this process cannot make groups.
    pub(crate) fn make() -> Result<ControlGroup, String> {
        let home = home()?;
        let mut number = 0;
        loop {
            number += 1;
            match ControlGroup::make_at(home.join(format!("{PREFIX}{}-{number}", std::process::id()))) {
                // Another daemon, of another pid namespace; or one that has just removed what it took for left behind.
                Err(error) if is_taken(&error) && number < MOST_NAMES => {}
                made => return made.map_err(|error| refusal(&home, &error)),
            }
        }
    }

    fn make_at(path: PathBuf) -> io::Result<ControlGroup> {
        fs::create_dir(&path)?;
        let directory = File::open(&path)?;
        // A group without a lock was left by a daemon that was killed.
        flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
        let entrance = OpenOptions::new().write(true).open(path.join(PROCESSES))?;
        Ok(ControlGroup { path, directory, entrance })
    }

    /// The group itself, to attach programs to.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The file into which a process writes that it enters (`cgroup.procs`).
    pub(crate) fn entrance(&self) -> BorrowedFd<'_> {
        self.entrance.as_fd()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        if let Err(error) = dissolve(&self.path) {
            log::warn!("the control group {} stays until the daemon starts again: {error}", self.path.display());
        }
    }
}

/// Removes the groups of daemons that were killed. Their processes go to this daemon's group.
pub(crate) fn remove_left_behind() {
    let Ok(home) = home() else { return };
    let entries = fs::read_dir(&home).into_iter().flatten().flatten();
    for group in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let path = group.path();
        let Ok(directory) = File::open(&path) else { continue };
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        match dissolve(&path) {
            Ok(()) => log::info!("removed the control group {} of a daemon that was killed", path.display()),
            Err(error) => log::warn!("the control group {} cannot be removed: {error}", path.display()),
        }
    }
}

/// Why this process cannot make groups, as a sentence. Changes nothing.
pub(crate) fn why_none() -> Option<String> {
    let home = match home() {
        Ok(home) => home,
        Err(why) => return Some(why),
    };
    let access = accessat(CWD, &home, Access::WRITE_OK, AtFlags::empty());
    access.err().map(|errno| refusal(&home, &errno.into()))
}

/// The file with the processes of a group.
const PROCESSES: &str = "cgroup.procs";

/// How the processes of other pid namespaces are listed there. Written, it means the process that writes.
const UNSEEN: &str = "0";

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound | io::ErrorKind::WouldBlock)
}

/// The directory of this process's own group.
fn home() -> Result<PathBuf, String> {
    let own =
        procfs::unified_control_group().ok_or("this kernel, or this container, has no control groups of version 2")?;
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    directory_of(&own, &mounts)
        .ok_or_else(|| format!("the control group {own} of version 2 is not mounted where this process sees it"))
}

/// Where a group is visible, by the lines of proc_pid_mountinfo(5). Pure.
fn directory_of(group: &str, mounts: &str) -> Option<PathBuf> {
    // It is outside of the control group namespace.
    if group.starts_with("/..") {
        return None;
    }
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = Path::new(group).strip_prefix(root).ok()?;
        (kind.split(' ').next() == Some("cgroup2")).then(|| Path::new(point).join(below))
    })
}

fn refusal(home: &Path, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            " (ProtectControlGroups= of the unit, or a container: it needs a writable one)"
        }
        io::ErrorKind::PermissionDenied => " (the daemon needs to be root, and its unit Delegate=yes)",
        _ => "",
    };
    format!("no control group can be made below {}: {error}{remedy}", home.display())
}

/// Moves the processes of a group to its parent, and removes it.
fn dissolve(group: &Path) -> io::Result<()> {
    let home = group.parent().unwrap_or(group);
    let mut result = Ok(());
    for _ in 0..MOVES {
        let processes = match fs::read_to_string(group.join(PROCESSES)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            processes => processes?,
        };
        if !processes.is_empty() {
            let mut entrance = OpenOptions::new().write(true).open(home.join(PROCESSES))?;
            // A process that has ended meanwhile cannot be moved.
            let of_this_namespace = processes.lines().filter(|pid| *pid != UNSEEN);
            of_this_namespace.for_each(|pid| drop(entrance.write_all(pid.as_bytes())));
        }
        result = fs::remove_dir(group);
        match &result {
            // A process that has ended stays in its group until its parent has asked for its status, and does not prevent the removal.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            _ => return result,
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_found_below_the_mount_that_shows_it() {
        let mounts = "29 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      30 23 0:27 /unit /mnt/some rw,relatime shared:4 - cgroup2 cgroup2 rw\n\
                      31 23 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let found = |group| directory_of(group, mounts);
        assert_eq!(found("/unit/a"), Some("/mnt/some/a".into()));
        assert_eq!(found("/other"), Some("/sys/fs/cgroup/unified/other".into()));
        assert_eq!(found("/"), Some("/sys/fs/cgroup/unified/".into()));
        assert_eq!(directory_of("/other", mounts.lines().nth(1).unwrap()), None);
        assert_eq!(directory_of("/../outside", "31 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"), None);
    }
}

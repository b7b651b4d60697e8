//! Removes the groups of generations that have started, and those that daemons left behind that were killed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::time::Timespec;

use super::files::{self, EVENTS, PREFIX, PROCESSES};
use super::home::Home;

/// How long a removal waits for processes that are ending. Later the daemon tries again about once a second.
const END_TIMEOUT: Duration = Duration::from_millis(100);

/// How long one wait is. A process that has forked while it was moved leaves a child behind, of which no event tells.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// The groups that could not be removed yet, with their locks.
static REMAINING: Mutex<Vec<(PathBuf, File)>> = Mutex::new(Vec::new());

fn remaining() -> MutexGuard<'static, Vec<(PathBuf, File)>> {
    REMAINING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes a group, now or later. It blocks.
pub(super) fn remove(path: PathBuf, lock: File) {
    if let Err(error) = dissolve(&path) {
        log::warn!("the control group {} cannot be removed yet: {error}", path.display());
        remaining().push((path, lock));
    }
}

/// Whether there are groups that could not be removed yet.
pub(crate) fn any_remaining() -> bool {
    !remaining().is_empty()
}

/// Tries again to remove the groups that could not be removed. It blocks.
pub(crate) fn remove_remaining() {
    let groups = std::mem::take(&mut *remaining());
    for (path, lock) in groups {
        match dissolve(&path) {
            Ok(()) => log::info!("removed the control group {}", path.display()),
            Err(_) => remaining().push((path, lock)),
        }
    }
}

/// Removes the groups of daemons that were killed, wherever they ran. Their processes go to the group above. It blocks.
pub(crate) fn remove_left_behind() {
    let Ok(home) = Home::find() else { return };
    for path in groups_below(home.mount) {
        let Ok(directory) = File::open(&path) else { continue };
        // A group with a lock belongs to a daemon that lives.
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        match dissolve(&path) {
            Ok(()) => log::info!("removed the control group {} of a daemon that was killed", path.display()),
            Err(error) => {
                log::warn!(
                    "the control group {} of a daemon that was killed cannot be removed yet: {error}",
                    path.display()
                );
                remaining().push((path, directory));
            }
        }
    }
}

/// The groups for starts, below a directory.
fn groups_below(directory: PathBuf) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![directory]);
    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let is_for_start = entry.file_name().to_string_lossy().starts_with(PREFIX);
            if is_for_start { &mut found } else { &mut open }.push(entry.path());
        }
    }
    found
}

/// Moves the processes of a group to the group above, and removes it.
fn dissolve(group: &Path) -> io::Result<()> {
    let deadline = Instant::now() + END_TIMEOUT;
    let mut events = match File::open(group.join(EVENTS)) {
        Err(error) if is_gone(&error) => return Ok(()),
        events => events?,
    };
    loop {
        // An event after this read ends the wait.
        events.rewind().and_then(|()| events.read_to_string(&mut String::new())).ok();
        move_processes(group)?;
        match fs::remove_dir(group) {
            // A process that has ended stays in its group until its parent has asked for its status, and does not prevent the removal. One that
            // is ending does, and cannot be moved (`cgroup_migrate_add_task`).
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&WAIT)).ok();
            }
            Err(error) if is_gone(&error) => return Ok(()),
            removed => return removed,
        }
    }
}

fn move_processes(group: &Path) -> io::Result<()> {
    let processes = match files::processes(group) {
        Err(error) if is_gone(&error) => return Ok(()),
        processes => processes?,
    };
    if processes.is_empty() {
        return Ok(());
    }
    let above = group.parent().unwrap_or(group);
    let mut entrance = OpenOptions::new().write(true).open(above.join(PROCESSES))?;
    // A process that has ended meanwhile cannot be moved.
    processes.iter().for_each(|pid| drop(entrance.write_all(pid.to_string().as_bytes())));
    Ok(())
}

/// Whether another process has removed the group.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_wherever_a_daemon_ran() {
        let directory = tempfile::tempdir().unwrap();
        let [own, other] = ["reloader-start-1-1", "system.slice/web.service/reloader-start-2-1"]
            .map(|name| directory.path().join(name));
        for made in [&own, &other, &directory.path().join("user.slice")] {
            fs::create_dir_all(made).unwrap();
        }
        fs::write(directory.path().join("reloader-start-file"), "").unwrap();
        let mut found = groups_below(directory.path().to_owned());
        found.sort();
        assert_eq!(found, [own, other]);
    }
}

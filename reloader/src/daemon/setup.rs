//! Checks and creates what the daemon needs before it runs: privileges, directories, the lock.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::DaemonError;
use crate::config::Config;
use crate::fs::accounts::group_id;
use crate::fs::exclusive_dir::refuse_others_writing;
use crate::fs::lock_within;
use crate::process;

/// A capability that the daemon has use for.
struct Capability {
    /// capabilities(7)
    number: u32,
    /// Its name, and what it is for.
    name: &'static str,
    /// What does not work without it.
    lack: &'static str,
}

const WANTED: [Capability; 3] = [
    Capability {
        number: 5,
        name: "CAP_KILL (to retire a HAProxy that changed its user)",
        lack: "CAP_KILL is missing: a server that changes its user cannot be retired",
    },
    Capability {
        number: 12,
        name: "CAP_NET_ADMIN (to read sockets and to hold SYNs)",
        lack: "CAP_NET_ADMIN is missing: no SYN can be held, and none steered; a listener that cannot be passed is unproven",
    },
    Capability {
        number: 19,
        name: "CAP_SYS_PTRACE (to see which sockets a HAProxy that changed its user owns)",
        lack: "CAP_SYS_PTRACE is missing: a server that changes its user cannot be proven, and the process of a foreign listener cannot be named",
    },
];

/// Refuses to go on without the wanted capabilities, and names each that is missing. PID 1 of a container goes on: few capabilities are enough as
/// long as the server keeps the daemon's user. It gets the sentences that say what does not work.
pub(super) fn check_privileges() -> Result<Vec<String>, DaemonError> {
    let missing: Vec<&Capability> = missing(process::effective_capabilities()).collect();
    if process::is_init() {
        missing.iter().for_each(|capability| log::warn!("{}", capability.lack));
        return Ok(missing.into_iter().map(|capability| capability.lack.to_owned()).collect());
    }
    match missing.iter().map(|capability| capability.name).collect::<Vec<_>>() {
        missing if missing.is_empty() => Ok(Vec::new()),
        missing => Err(DaemonError::Privilege(missing.join(", "))),
    }
}

fn missing(effective: u64) -> impl Iterator<Item = &'static Capability> {
    WANTED.iter().filter(move |capability| effective & (1 << capability.number) == 0)
}

/// The group that may use the control socket.
pub(super) fn control_group(config: &Config) -> Result<u32, DaemonError> {
    let name = &config.control_group;
    let found = group_id(name).map_err(|errno| DaemonError::io("reading the groups")(errno.into()))?;
    found.ok_or_else(|| DaemonError::NoSuchGroup(name.clone()))
}

/// Creates runtime-dir and state-dir. All users may enter runtime-dir, because the control socket may be in it. Secret files in it have a mode of
/// their own.
pub(super) fn directories(config: &Config, group: u32) -> Result<(), DaemonError> {
    directory("runtime-dir", &config.runtime_dir, 0o755)?;
    let is_new = !config.state_dir.exists();
    directory("state-dir", &config.state_dir, 0o750)?;
    if is_new {
        let failed = DaemonError::io(format!("giving {} to the control group", config.state_dir.display()));
        chown(&config.state_dir, None, Some(group)).map_err(failed)?;
    }
    Ok(())
}

/// The configuration with runtime-dir spelled without symbolic links, as the kernel and /proc spell it.
pub(super) fn with_plain_runtime_dir(config: Config) -> Result<Config, DaemonError> {
    let place = config.runtime_dir.display().to_string();
    let runtime_dir = config.runtime_dir.canonicalize().map_err(DaemonError::io(format!("looking for {place}")))?;
    Ok(Config { runtime_dir, ..config })
}

/// Creates a directory. One that exists keeps its mode: other programs may use it as well.
fn directory(key: &'static str, path: &Path, mode: u32) -> Result<(), DaemonError> {
    let create = || {
        if path.is_dir() {
            return refuse_others_writing(path);
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        DirBuilder::new().mode(mode).create(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(mode))
    };
    create().map_err(DaemonError::place(key, path))
}

/// One daemon for a runtime-dir: holds the lock as long as it lives. The descriptor is close-on-exec.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// False when the file is no longer the one at its path: another process emptied runtime-dir.
    pub(super) fn is_in_place(&self) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(held), Ok(there)) => identity(held) == identity(there),
            _ => false,
        }
    }
}

/// How long a process that was killed, or a child that it was starting, may still have the lock.
const DEAD_KEEPS_IT: Duration = Duration::from_secs(1);

/// Takes the lock of runtime-dir.
pub(super) fn lock(runtime_dir: &Path) -> Result<Lock, DaemonError> {
    let path = runtime_dir.join("lock");
    let place = path.display().to_string();
    let failed = || DaemonError::io(format!("locking {place}"));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // A user who can open it can lock it.
        .mode(0o600)
        .open(&path)
        .map_err(failed())?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(failed())?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut text = String::new();
        let _ = file.read_to_string(&mut text);
        let owner: Option<u32> = text.trim().parse().ok();
        let is_dead = owner.is_some_and(|pid| process::start_time(pid).is_none());
        if !is_dead || lock_within(&file, DEAD_KEEPS_IT).is_err() {
            let owner = owner.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            return Err(DaemonError::AlreadyRunning { directory: runtime_dir.to_owned(), owner });
        }
    }
    file.rewind().map_err(failed())?;
    let mut note_pid = || -> io::Result<()> {
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())
    };
    note_pid().map_err(failed())?;
    Ok(Lock { file, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        let names = |effective| missing(effective).map(|capability| capability.name).collect::<Vec<_>>();
        assert!(names(u64::MAX).is_empty());
        assert_eq!(names(0).len(), 3);
        assert!(names(!(1 << 19))[0].starts_with("CAP_SYS_PTRACE"));
    }

    #[test]
    fn the_second_lock_is_refused_with_the_first_ones_pid() {
        let directory = tempfile::tempdir().unwrap();
        let _first = lock(directory.path()).unwrap();
        let message = lock(directory.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    }
}

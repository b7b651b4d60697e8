//! The holds of this machine, one file each in `runtime-dir/holds`: who holds what, and whether he lives.
//!
//! A file is locked (flock) by the open file that its holder and its guard share: the kernel lets go of the lock when the last
//! of them is gone, however it ended. So a file that can be locked is the trace of a hold that lost both.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Backend, Living, liveness_socket, own_entry};
use crate::fs::lock_within;

/// How long is waited for who looks at the records, or changes what holds share.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The directory below the runtime directory.
const DIRECTORY: &str = "holds";

/// The largest id: the gates need the sixteenth bit for themselves.
pub(super) const MAX_ID: u16 = 0x7fff;

/// What is on record about a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HoldRecord {
    /// Its id: see [`Spec::id`](super::Spec::id).
    pub id: u16,
    /// The process that holds.
    pub holder: u32,
    /// The process that releases when the holder dies; `None` until it runs.
    pub guard: Option<GuardId>,
    /// The gate; `None` until it is chosen.
    pub backend: Option<Backend>,
    /// The network namespace, by the inode of its file in /proc.
    pub netns: u64,
    /// What is held.
    pub listen: Vec<SocketAddr>,
    /// The path by which that was found, if it was not the holder's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_path: Option<PathBuf>,
    /// Since when, RFC 3339 in UTC.
    pub since: String,
    /// The guard has released, and nothing is held any more, although the holder is there still.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lifted: bool,
}

/// A guard, told from whatever process gets its pid later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuardId {
    /// Its process id.
    pub pid: u32,
    /// Its start time in clock ticks since boot.
    pub start_time: u64,
}

impl HoldRecord {
    /// Whether the calling thread is in the network namespace of the hold.
    pub fn is_of_this_namespace(&self) -> bool {
        netns().is_ok_and(|netns| netns == self.netns)
    }
}

/// A record and whether a process stands behind it.
#[derive(Debug)]
pub struct HoldEntry {
    /// The hold's id.
    pub id: u16,
    /// What it says; `None` while somebody writes it.
    pub record: Option<HoldRecord>,
    /// The holder or the guard lives.
    pub lives: bool,
}

impl HoldEntry {
    /// Somebody stands behind it, and has not let go yet.
    pub(super) fn holds(&self) -> bool {
        self.lives && !self.record.as_ref().is_some_and(|record| record.lifted)
    }

    /// Not another one that was given the same id.
    pub(super) fn is_of_the_same_hold(&self, other: &HoldEntry) -> bool {
        let began = |found: &HoldEntry| found.record.as_ref().map(|record| (record.holder, record.since.clone()));
        self.id == other.id && began(self).zip(began(other)).is_none_or(|(one, other)| one == other)
    }
}

/// The directory of records.
#[derive(Debug, Clone)]
pub struct HoldRegistry(PathBuf);

/// While this lives nobody else puts a hold on record or forgets one.
#[derive(Debug)]
pub struct Locked {
    _directory: File,
}

/// EndReason a hold could not be put on record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Another hold has the port.
    #[error(
        "port {port} is held already, by process {holder}: wait for it to end, or end it with `reloader release`; two holds at \
         once need different ports"
    )]
    Busy {
        /// The port.
        port: u16,
        /// Who holds it.
        holder: u32,
    },
    /// Every id is taken.
    #[error("{MAX_ID} holds are on record in {0}: end some with `reloader release`")]
    Full(PathBuf),
    /// The directory or a file in it cannot be used.
    #[error(
        "cannot keep the record of the hold in {path}: {source}; the directory must be writable for root (runtime-dir)"
    )]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl HoldRegistry {
    /// The records below `runtime_dir`.
    pub fn new(runtime_dir: &Path) -> HoldRegistry {
        HoldRegistry(runtime_dir.join(DIRECTORY))
    }

    /// All records.
    ///
    /// # Errors
    /// Where the directory cannot be read. That there is none is no error.
    pub fn list(&self) -> Result<Vec<HoldEntry>, RecordError> {
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.failed(source)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| self.failed(source))?.path();
            found.extend(read(&path));
        }
        found.sort_by_key(|found| found.id);
        Ok(found)
    }

    /// The ids of the holds that have a living holder or guard, those in this network namespace included that are on record
    /// elsewhere.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn living(&self) -> Result<Living, RecordError> {
        let mut living = liveness_socket::bound();
        living.extend(self.list()?.iter().filter(|found| found.lives).map(|found| found.id));
        Ok(living)
    }

    /// Forgets a dead hold whose traces were removed.
    ///
    /// # Errors
    /// Where the file cannot be removed.
    pub fn forget(&self, id: u16, _lock: &Locked) -> Result<(), RecordError> {
        let path = self.path_of(id);
        // Its number may have been given to a new hold meanwhile.
        if read(&path).is_some_and(|found| found.lives) {
            return Ok(());
        }
        own_entry::remove(&path).map_err(|source| RecordError::Io { path, source })
    }

    /// One process at a time looks at the records and decides.
    ///
    /// # Errors
    /// Where the directory cannot be made or locked.
    pub fn lock(&self) -> Result<Locked, RecordError> {
        self.lock_within(LOCK_TIMEOUT)
    }

    /// Whoever has the lock may be stopped: nobody waits for ever.
    pub(super) fn lock_within(&self, patience: Duration) -> Result<Locked, RecordError> {
        self.make_directory().map_err(|source| self.failed(source))?;
        let directory = File::open(&self.0).map_err(|source| self.failed(source))?;
        match lock_within(&directory, patience) {
            Ok(()) => Ok(Locked { _directory: directory }),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(self.failed(io::Error::other("another hold has it locked and does not go on")))
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Does what nobody else should do at the same time, and does it all the same where somebody keeps the lock.
    pub(super) fn alone<T>(&self, work: impl FnOnce() -> T) -> T {
        let _lock = self.lock();
        work()
    }

    /// The runtime directory itself is for others too: a daemon that comes later has its control socket there.
    fn make_directory(&self) -> io::Result<()> {
        if let Some(runtime_dir) = self.0.parent() {
            DirBuilder::new().mode(0o755).recursive(true).create(runtime_dir)?;
        }
        match DirBuilder::new().mode(0o700).create(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// The directory, made if need be.
    pub(super) fn prepared(&self) -> io::Result<&Path> {
        self.lock().map_err(io::Error::other)?;
        Ok(&self.0)
    }

    /// The directory, which may not exist.
    pub(super) fn directory(&self) -> &Path {
        &self.0
    }

    pub(super) fn path_of(&self, id: u16) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }

    pub(super) fn failed(&self, source: io::Error) -> RecordError {
        RecordError::Io { path: self.0.clone(), source }
    }
}

fn read(path: &Path) -> Option<HoldEntry> {
    let id = path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()?;
    let mut file = File::open(path).ok()?;
    let lives = match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => false,
        Err(Errno::WOULDBLOCK) => true,
        Err(_) => return None,
    };
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    Some(HoldEntry { id, record: serde_json::from_str(&text).ok(), lives })
}

/// The network namespace of the calling thread.
pub(super) fn netns() -> io::Result<u64> {
    // /proc/thread-self came with Linux 3.17.
    let path = PathBuf::from(format!("/proc/self/task/{}/ns/net", rustix::thread::gettid()));
    Ok(std::fs::metadata(path)?.ino())
}

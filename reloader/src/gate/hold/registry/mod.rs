//! Registers the holds of this machine: one file each in `runtime-dir/holds`, which also tells whether the hold lives.
//!
//! Holder and guard share an open file that has a lock (flock) on the entry. The kernel drops the lock when the last of the two is
//! gone, however it ended. So an entry that another process can lock belongs to a dead hold.

mod error;
mod files;
mod netns;
mod record;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::liveness_socket;
use super::timing::REGISTRY_LOCK_TIMEOUT;
use crate::fs::lock_within;
use crate::gate::contract::Living;
use files::{entry_path, read_entry};

pub use error::RegistryError;
pub(super) use files::{mark_lifted, remove_entry, write_in_place};
pub(super) use netns::current_netns;
pub(super) use record::MAX_ID;
pub use record::{GuardId, HoldEntry, HoldRecord};

/// The directory below the runtime directory.
const DIRECTORY: &str = "holds";

/// The registry: a directory.
#[derive(Debug, Clone)]
pub struct HoldRegistry(PathBuf);

/// The registry is locked while this lives: no other process adds or removes an entry.
#[derive(Debug)]
pub struct Locked {
    _directory: File,
}

impl HoldRegistry {
    /// The registry below `runtime_dir`.
    pub fn new(runtime_dir: &Path) -> HoldRegistry {
        HoldRegistry(runtime_dir.join(DIRECTORY))
    }

    /// All entries, by id. There are none where the directory does not exist.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    pub fn list(&self) -> Result<Vec<HoldEntry>, RegistryError> {
        let files = match std::fs::read_dir(&self.0) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.error(source)),
        };
        let mut entries = Vec::new();
        for file in files {
            let path = file.map_err(|source| self.error(source))?.path();
            entries.extend(read_entry(&path));
        }
        entries.sort_by_key(|entry| entry.id);
        Ok(entries)
    }

    /// The ids of the holds whose holder or guard lives. That includes the holds of other registries in this network
    /// namespace.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn living(&self) -> Result<Living, RegistryError> {
        let mut living = liveness_socket::bound();
        living.extend(self.list()?.iter().filter(|entry| entry.lives).map(|entry| entry.id));
        Ok(living)
    }

    /// Removes the entry of a dead hold. Call this after the traces of the hold were removed.
    ///
    /// # Errors
    /// Where the file cannot be removed.
    pub fn forget(&self, id: u16, _lock: &Locked) -> Result<(), RegistryError> {
        let path = self.path_of(id);
        // A new hold may have got the id meanwhile.
        if read_entry(&path).is_some_and(|entry| entry.lives) {
            return Ok(());
        }
        remove_entry(&path)
    }

    /// Locks the registry: one process at a time reads it and decides.
    ///
    /// # Errors
    /// Where the directory cannot be made or locked.
    pub fn lock(&self) -> Result<Locked, RegistryError> {
        self.lock_within(REGISTRY_LOCK_TIMEOUT)
    }

    /// Locks the registry, and gives up after `timeout`: the process that has the lock may be stopped.
    ///
    /// # Errors
    /// Where the directory cannot be made or locked.
    pub(super) fn lock_within(&self, timeout: Duration) -> Result<Locked, RegistryError> {
        self.make_directory().map_err(|source| self.error(source))?;
        let directory = File::open(&self.0).map_err(|source| self.error(source))?;
        match lock_within(&directory, timeout) {
            Ok(()) => Ok(Locked { _directory: directory }),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(self.error(io::Error::other("another hold has it locked and does not go on")))
            }
            Err(error) => Err(self.error(error)),
        }
    }

    /// Does `work` under the lock, or without it where the lock cannot be had: the work must be done.
    pub(super) fn under_lock<T>(&self, work: impl FnOnce() -> T) -> T {
        let _lock = self.lock();
        work()
    }

    /// The runtime directory itself is open to others: a daemon that starts later has its control socket there.
    fn make_directory(&self) -> io::Result<()> {
        if let Some(runtime_dir) = self.0.parent() {
            DirBuilder::new().mode(0o755).recursive(true).create(runtime_dir)?;
        }
        match DirBuilder::new().mode(0o700).create(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// The directory, which is made where it does not exist.
    pub(super) fn existing_directory(&self) -> io::Result<&Path> {
        self.lock().map_err(io::Error::other)?;
        Ok(&self.0)
    }

    /// The directory, which may not exist.
    pub(super) fn directory(&self) -> &Path {
        &self.0
    }

    pub(super) fn path_of(&self, id: u16) -> PathBuf {
        entry_path(&self.0, id)
    }

    pub(super) fn error(&self, source: io::Error) -> RegistryError {
        RegistryError::Io { path: self.0.clone(), source }
    }
}

//! A hold's own record, and what its holder and its guard do with it.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::delivery_lock::delivery_lock_path;
use super::registry::{GuardId, HoldEntry, HoldRecord, HoldRegistry, MAX_ID, RecordError, netns};
use super::worker::RENEWAL_INTERVAL;
use super::{Backend, Target, liveness_socket};

/// This process's own record.
#[derive(Debug)]
pub struct OwnEntry {
    records: HoldRegistry,
    path: PathBuf,
    file: File,
    name: Option<OwnedFd>,
    record: HoldRecord,
}

impl HoldRegistry {
    /// Claims the ports of `targets` in this network namespace: from here on nobody else holds them.
    ///
    /// # Errors
    /// Where another hold has one of the ports, whatever the address, and where the directory cannot be written.
    pub fn claim(&self, targets: &[Target], netns_path: Option<&Path>) -> Result<OwnEntry, RecordError> {
        let lock = self.lock()?;
        let netns = netns().map_err(|source| self.failed(source))?;
        let others = self.list()?;
        let living = others.iter().filter(|other| other.holds()).filter_map(|other| other.record.as_ref());
        for other in living.filter(|other| other.netns == netns) {
            let taken = |target: &&Target| other.listen.iter().any(|held| held.port() == target.address.port());
            if let Some(target) = targets.iter().find(taken) {
                // Of a holder that has died the guard goes on.
                let guard = other.guard.filter(|_| crate::process::start_time(other.holder).is_none());
                let holder = guard.map_or(other.holder, |guard| guard.pid);
                return Err(RecordError::Busy { port: target.address.port(), holder });
            }
        }
        let (id, name) = unused(&others).ok_or_else(|| RecordError::Full(self.directory().to_owned()))?;
        let mut listen: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
        listen.dedup();
        let since = humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string();
        let holder = std::process::id();
        let netns_path = netns_path.map(Path::to_owned);
        let record =
            HoldRecord { id, holder, guard: None, backend: None, netns, netns_path, listen, since, lifted: false };
        let claim = OwnEntry::create(self, record, name)?;
        drop(lock);
        Ok(claim)
    }
}

impl OwnEntry {
    fn create(records: &HoldRegistry, record: HoldRecord, name: Option<OwnedFd>) -> Result<OwnEntry, RecordError> {
        let path = records.path_of(record.id);
        let created = (|| {
            // A dead hold's file has a number that is used, so this one does not exist.
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            // Who lists the records holds a shared lock for a moment.
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        })();
        match created {
            Ok(file) => {
                let claim = OwnEntry { records: records.clone(), path, file, name, record };
                claim.write()?;
                Ok(claim)
            }
            Err(source) => Err(RecordError::Io { path, source }),
        }
    }

    /// This hold's id.
    pub fn id(&self) -> u16 {
        self.record.id
    }

    /// Puts it on record who guards the hold and by which gate.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn amend(&mut self, backend: Backend, guard: u32) -> Result<(), RecordError> {
        let start_time = crate::process::start_time(guard).unwrap_or(0);
        self.record.backend = Some(backend);
        self.record.guard = Some(GuardId { pid: guard, start_time });
        // Not while somebody reads the records to decide; but SYNs may be held, and the lease waits for nobody.
        let _lock = self.records.lock_within(RENEWAL_INTERVAL);
        self.write()
    }

    /// The open file that carries the lock: who has a duplicate is alive for others.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What says in the network namespace that the hold lives; `None` where that could not be had.
    pub fn name(&self) -> Option<&OwnedFd> {
        self.name.as_ref()
    }

    /// Where the record is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&self) -> Result<(), RecordError> {
        write_in_place(&self.file, &self.record).map_err(|source| RecordError::Io { path: self.path.clone(), source })
    }
}

impl Drop for OwnEntry {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            log::error!("the record of a hold that has ended stays in {}: {error}", self.path.display());
        }
    }
}

/// Puts it on record that the guard has released, through the open file that it shares with the holder.
pub(super) fn mark_lifted(file: &File) -> io::Result<()> {
    let mut text = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut text, 0)?;
    let record: HoldRecord = serde_json::from_slice(&text)?;
    write_in_place(file, &HoldRecord { lifted: true, ..record })
}

/// The lock belongs to this very file.
fn write_in_place(file: &File, record: &HoldRecord) -> io::Result<()> {
    let text = serde_json::to_vec(record)?;
    file.write_all_at(&text, 0)?;
    file.set_len(text.len() as u64)
}

/// Removes a record and what goes with it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    [delivery_lock_path(path), path.to_owned()].iter().try_for_each(|path| match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    })
}

/// An id and its name in this network namespace. Not the same ones again and again: traces of a hold whose record is lost must not
/// be taken for a living one's.
fn unused(others: &[HoldEntry]) -> Option<(u16, Option<OwnedFd>)> {
    let first = (std::process::id() % u32::from(MAX_ID)) as u16;
    let candidates = || {
        let all = (0..MAX_ID).map(|step| (first + step) % MAX_ID + 1);
        all.filter(|id| others.iter().all(|other| other.id != *id))
    };
    let bound = liveness_socket::bound();
    let named =
        candidates().filter(|id| !bound.contains(id)).find_map(|id| Some((id, Some(liveness_socket::bind(id).ok()?))));
    // Any user may have taken all of the names.
    named.or_else(|| candidates().next().map(|id| (id, None)))
}

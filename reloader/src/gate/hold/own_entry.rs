//! The registry entry of a hold, as its own processes have it.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::liveness_socket;
use super::registry::{
    GuardId, HoldEntry, HoldRecord, HoldRegistry, MAX_ID, RegistryError, current_netns, remove_entry, write_in_place,
};
use super::timing::RENEWAL_INTERVAL;
use crate::gate::contract::{Backend, Target};
use crate::process::start_time;

/// The entry of this process's own hold. It is removed when this is dropped.
#[derive(Debug)]
pub struct OwnEntry {
    registry: HoldRegistry,
    path: PathBuf,
    file: File,
    liveness_socket: Option<OwnedFd>,
    record: HoldRecord,
}

impl HoldRegistry {
    /// Registers a hold for the ports of `targets` in the network namespace of the calling thread. No other hold gets them from then on.
    ///
    /// # Errors
    /// Where another hold has one of the ports, whatever the address, and where the directory cannot be written.
    pub fn claim(&self, targets: &[Target], netns_path: Option<&Path>) -> Result<OwnEntry, RegistryError> {
        let lock = self.lock()?;
        let netns = current_netns().map_err(|source| self.error(source))?;
        let others = self.list()?;
        refuse_taken_ports(&others, targets, netns)?;
        let (id, liveness_socket) =
            unused_id(&others).ok_or_else(|| RegistryError::Full(self.directory().to_owned()))?;
        let mut listen: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
        listen.dedup();
        let record = HoldRecord {
            id,
            holder: std::process::id(),
            guard: None,
            backend: None,
            netns,
            listen,
            netns_path: netns_path.map(Path::to_owned),
            since: humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string(),
            lifted: false,
        };
        let entry = OwnEntry::create(self, record, liveness_socket)?;
        drop(lock);
        Ok(entry)
    }
}

fn refuse_taken_ports(others: &[HoldEntry], targets: &[Target], netns: u64) -> Result<(), RegistryError> {
    let holding = others.iter().filter(|other| other.is_claimed()).filter_map(|other| other.record.as_ref());
    for other in holding.filter(|other| other.netns == netns) {
        let is_taken = |target: &&Target| other.listen.iter().any(|address| address.port() == target.address.port());
        if let Some(target) = targets.iter().find(is_taken) {
            // Where the holder has died, the guard is the process that holds.
            let guard = other.guard.filter(|_| start_time(other.holder).is_none());
            let holder = guard.map_or(other.holder, |guard| guard.pid);
            return Err(RegistryError::Busy { port: target.address.port(), holder });
        }
    }
    Ok(())
}

/// An id that no hold has, and its liveness socket in this network namespace. Each process begins its search at another id: where the
/// entry of a dead hold was lost, the next hold must not get the same id, and count as the owner of what is left.
fn unused_id(others: &[HoldEntry]) -> Option<(u16, Option<OwnedFd>)> {
    let first = (std::process::id() % u32::from(MAX_ID)) as u16;
    let candidates = || {
        let all = (0..MAX_ID).map(|step| (first + step) % MAX_ID + 1);
        all.filter(|id| others.iter().all(|other| other.id != *id))
    };
    let bound = liveness_socket::bound();
    let with_socket =
        candidates().filter(|id| !bound.contains(id)).find_map(|id| Some((id, Some(liveness_socket::bind(id).ok()?))));
    // Any user may have taken all of the names.
    with_socket.or_else(|| candidates().next().map(|id| (id, None)))
}

impl OwnEntry {
    fn create(
        registry: &HoldRegistry,
        record: HoldRecord,
        liveness_socket: Option<OwnedFd>,
    ) -> Result<OwnEntry, RegistryError> {
        let path = registry.path_of(record.id);
        let created = (|| {
            // The file of a dead hold keeps its id from being chosen, so this file does not exist.
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            // A process that lists the entries holds a shared lock for a moment.
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        })();
        match created {
            Ok(file) => {
                let entry = OwnEntry { registry: registry.clone(), path, file, liveness_socket, record };
                entry.write()?;
                Ok(entry)
            }
            Err(source) => Err(RegistryError::Io { path, source }),
        }
    }

    /// This hold's id.
    pub fn id(&self) -> u16 {
        self.record.id
    }

    /// Records the guard and the gate.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn record_guard(&mut self, backend: Backend, guard: u32) -> Result<(), RegistryError> {
        let start_time = start_time(guard).unwrap_or(0);
        self.record.backend = Some(backend);
        self.record.guard = Some(GuardId { pid: guard, start_time });
        // Not while another process reads the registry and decides. But SYNs may be parked, and the lease must be renewed in time.
        let _lock = self.registry.lock_within(RENEWAL_INTERVAL);
        self.write()
    }

    /// The open file that has the lock. The hold lives for others while a process has a duplicate of it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The liveness socket, `None` where there is no free name.
    pub fn liveness_socket(&self) -> Option<&OwnedFd> {
        self.liveness_socket.as_ref()
    }

    /// The path of the entry.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&self) -> Result<(), RegistryError> {
        write_in_place(&self.file, &self.record).map_err(|source| RegistryError::Io { path: self.path.clone(), source })
    }
}

impl Drop for OwnEntry {
    fn drop(&mut self) {
        if let Err(error) = remove_entry(&self.path) {
            log::error!("the registry entry of a hold that has ended stays: {error}");
        }
    }
}

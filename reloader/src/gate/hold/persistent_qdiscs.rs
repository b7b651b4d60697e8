//! Keeps empty qdiscs on the devices between the holds of one daemon, so that a hold loses no packet of other traffic.
//!
//! To add or remove a root qdisc, `ingress` or `clsact`, the kernel stops the device for a millisecond and loses what it is given
//! to send meanwhile (`dev_deactivate` in `qdisc_graft`, net/sched/sch_api.c). A SYN that is lost so costs its client a second. TCX
//! needs none of these qdiscs. Where holds are the rule and there is no TCX, a daemon adds them once, empty, and removes them when it
//! ends.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};

use super::registry::{HoldRegistry, current_netns};
use crate::gate::contract::Backend;
use crate::gate::failures::Failures;
use crate::gate::qdisc;
use crate::kernel::devices::{self, receivers};
use crate::kernel::tc;

/// The file in the registry's directory that says which qdiscs were added.
const FILE: &str = "standing.json";

/// Empty qdiscs on the devices. They are removed when this is dropped, unless they are in use.
#[derive(Debug)]
pub struct PersistentQdiscs {
    registry: HoldRegistry,
    path: PathBuf,
    placed: Placed,
    /// The open file. It is locked while the daemon lives.
    file: File,
}

/// The qdiscs that were added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Placed {
    /// The network namespace, by the inode of its file in /proc.
    netns: u64,
    /// The devices that had no `clsact`, by index.
    clsact: BTreeSet<u32>,
    /// Whether there is a prio on `lo`.
    prio: bool,
}

impl PersistentQdiscs {
    /// Adds what holds by `backend` need without TCX, on every device that hands packets to IP.
    ///
    /// # Errors
    /// Where the kernel refuses, or the file cannot be written.
    pub fn install(registry: &HoldRegistry, backend: Backend) -> io::Result<PersistentQdiscs> {
        let path = registry.existing_directory()?.join(FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let netns = current_netns()?;
        let mut text = String::new();
        (&file).read_to_string(&mut text)?;
        // A daemon that was killed has left them, and a hold that goes on has kept them from being removed.
        let inherited = Some(Placed::read(&text)).filter(|placed| placed.netns == netns);
        let placed = inherited.unwrap_or(Placed { netns, ..Placed::default() });
        let mut qdiscs = PersistentQdiscs { registry: registry.clone(), path, placed, file };
        registry.under_lock(|| qdiscs.cover(backend))?;
        Ok(qdiscs)
    }

    fn cover(&mut self, backend: Backend) -> io::Result<()> {
        if backend == Backend::Qdisc {
            self.placed.prio = true;
            self.write()?;
            qdisc::keep_prio().map_err(io::Error::other)?;
        }
        let devices = devices::list()?;
        for device in receivers(&devices) {
            let needs = backend == Backend::Ebpf || device.name != "lo";
            if !needs || tc::qdisc::has_clsact(device.index)? || tc::qdisc::has_ingress(device.index)? {
                continue;
            }
            // Recorded before it is added: a later process finds it even if this one dies in between.
            self.placed.clsact.insert(device.index);
            self.write()?;
            let added = tc::add_clsact(device.index);
            added.map_err(|error| with_request(&format!("adding clsact to {}", device.name), error))?;
        }
        Ok(())
    }

    /// Writes the file in place, because the lock belongs to this very file. The file is never empty in between: a reader ignores what
    /// follows the text.
    fn write(&self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.placed)?;
        self.file.write_all_at(&text, 0)?;
        self.file.set_len(text.len() as u64)
    }
}

impl Drop for PersistentQdiscs {
    fn drop(&mut self) {
        match self.registry.under_lock(|| self.placed.remove()) {
            Ok(true) => drop(std::fs::remove_file(&self.path)),
            // The file stays, for a later cleanup.
            Ok(false) => log::warn!("an empty clsact was not removed, because another program has put filters into it"),
            Err(error) => log::error!("an empty qdisc stays in the packet path: {error}"),
        }
    }
}

impl Placed {
    fn read(text: &str) -> Placed {
        let mut values = serde_json::Deserializer::from_str(text).into_iter();
        values.next().and_then(Result::ok).unwrap_or_default()
    }

    /// Removes the qdiscs that are not in use. True where none of them is left.
    fn remove(&self) -> io::Result<bool> {
        let clsact = self.clsact.iter().map(|device| {
            let removed = tc::remove_unused_clsact(*device);
            removed.map_err(|error| with_request(&format!("removing clsact from device {device}"), error))
        });
        let prio = self.prio.then(|| qdisc::release_prio().map(|()| true).map_err(io::Error::other));
        all_removed(clsact.chain(prio))
    }
}

/// The error with the request that failed, and its device.
fn with_request(request: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{request}: {error}"))
}

/// Whether all were removed, of which each says whether it is gone.
///
/// # Errors
/// Where some could not be removed: all of these errors.
fn all_removed(removed: impl Iterator<Item = io::Result<bool>>) -> io::Result<bool> {
    let mut failures = Failures::new();
    let mut all = true;
    for removed in removed {
        all &= failures.note(removed).unwrap_or(false);
    }
    failures.into_result(all)
}

/// Removes what a daemon that was killed has left in this network namespace. Returns the number of qdiscs.
///
/// # Errors
/// Where the file cannot be read, or something cannot be removed. Everything else is removed then.
pub(super) fn remove_stale(registry: &HoldRegistry) -> io::Result<usize> {
    let path = registry.directory().join(FILE);
    let opened = OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(&path);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        opened => opened?,
    };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(0);
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let placed = Placed::read(&text);
    if placed.netns != current_netns()? && !text.is_empty() {
        return Ok(0);
    }
    if !placed.remove()? {
        return Ok(0);
    }
    std::fs::remove_file(&path)?;
    Ok(placed.clsact.len() + usize::from(placed.prio))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write that was interrupted between the text and the new length.
    #[test]
    fn what_follows_the_text_is_ignored() {
        let placed = Placed { netns: 7, clsact: [2].into(), prio: false };
        let mut text = serde_json::to_string(&placed).unwrap();
        text.push_str("3],\"prio\":true}");
        assert_eq!(Placed::read(&text), placed);
        assert_eq!(Placed::read(""), Placed::default());
    }

    #[test]
    fn each_qdisc_that_stays_is_reported() {
        let refused = |what: &str| Err(io::Error::other(what.to_owned()));
        let removed = all_removed([refused("eth0 is busy"), Ok(true), refused("lo is busy")].into_iter());
        assert_eq!(removed.unwrap_err().to_string(), "eth0 is busy; also: lo is busy");
        assert!(!all_removed([Ok(true), Ok(false)].into_iter()).unwrap());
        assert!(all_removed([Ok(true), Ok(true)].into_iter()).unwrap());
    }
}

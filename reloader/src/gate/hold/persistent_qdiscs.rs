//! What stays on the devices between the holds of one daemon, so that a hold costs nobody a packet.
//!
//! To add or remove a root qdisc, `ingress` or `clsact` the kernel stops the device for a millisecond and loses what it is given
//! to send meanwhile (`dev_deactivate` in `qdisc_graft`, net/sched/sch_api.c): a SYN among it costs its client a second. TCX
//! needs none of them. Where holds are the rule and there is no TCX, a daemon puts them there once, empty, and takes
//! them away when it ends.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};

use super::Backend;
use super::registry::HoldRegistry;
use crate::gate::qdisc;
use crate::kernel::devices::{self, receivers};
use crate::kernel::tc;

const FILE: &str = "standing.json";

/// Empty qdiscs in their places. Dropped, they are removed, those excepted that somebody uses.
#[derive(Debug)]
pub struct PersistentQdiscs {
    records: HoldRegistry,
    path: PathBuf,
    placed: Placed,
    /// Its lock says that somebody stands behind it.
    file: File,
}

/// What was put there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Placed {
    /// The network namespace, by the inode of its file in /proc.
    netns: u64,
    /// The devices that had no `clsact`.
    clsact: BTreeSet<u32>,
    /// The prio on `lo`.
    prio: bool,
}

impl PersistentQdiscs {
    /// Puts what holds by `backend` need without TCX on every device that hands packets to IP.
    ///
    /// # Errors
    /// Where the kernel refuses, or the record cannot be written.
    pub fn install(records: &HoldRegistry, backend: Backend) -> io::Result<PersistentQdiscs> {
        let path = records.prepared()?.join(FILE);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&path)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let netns = super::registry::netns()?;
        let mut text = String::new();
        (&lock).read_to_string(&mut text)?;
        // A daemon that was killed has left it, and a hold that goes on has kept it from being removed.
        let inherited = Some(Placed::read(&text)).filter(|placed| placed.netns == netns);
        let placed = inherited.unwrap_or(Placed { netns, ..Placed::default() });
        let mut standing = PersistentQdiscs { records: records.clone(), path, placed, file: lock };
        records.alone(|| standing.cover(backend))?;
        Ok(standing)
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
            // On record before it is there: a daemon that dies in between leaves no secret.
            self.placed.clsact.insert(device.index);
            self.write()?;
            tc::add_clsact(device.index)
                .map_err(|error| naming(&format!("adding clsact to {}", device.name), error))?;
        }
        Ok(())
    }

    fn write(&self) -> io::Result<()> {
        // In place, because the lock belongs to this very file. Never empty in between: what is behind the end of the text is not
        // read.
        let text = serde_json::to_vec(&self.placed)?;
        self.file.write_all_at(&text, 0)?;
        self.file.set_len(text.len() as u64)
    }
}

impl Drop for PersistentQdiscs {
    fn drop(&mut self) {
        match self.records.alone(|| self.placed.remove()) {
            Ok(true) => drop(std::fs::remove_file(&self.path)),
            // The record stays, for whoever cleans up later.
            Ok(false) => log::warn!("an empty clsact stays for now, because somebody has put filters into it"),
            Err(error) => log::error!("an empty qdisc stays in the packet path: {error}"),
        }
    }
}

impl Placed {
    fn read(text: &str) -> Placed {
        let mut values = serde_json::Deserializer::from_str(text).into_iter();
        values.next().and_then(Result::ok).unwrap_or_default()
    }

    /// True where nothing of it is left.
    fn remove(&self) -> io::Result<bool> {
        let mut result = Ok(true);
        for device in &self.clsact {
            let removed = tc::remove_unused_clsact(*device);
            result =
                both(result, removed.map_err(|error| naming(&format!("removing clsact from device {device}"), error)));
        }
        if self.prio {
            result = both(result, qdisc::release_prio().map(|()| true).map_err(io::Error::other));
        }
        result
    }
}

/// The error with the request that failed, and its device.
fn naming(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn both(one: io::Result<bool>, other: io::Result<bool>) -> io::Result<bool> {
    Ok(one? & other?)
}

/// Removes what a daemon that was killed left standing in this network namespace. Returns how many qdiscs it were.
pub(super) fn remove_stale(records: &HoldRegistry) -> io::Result<usize> {
    let path = records.directory().join(FILE);
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
    if placed.netns != super::registry::netns()? && !text.is_empty() {
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

    /// Interrupted between the text and the new length.
    #[test]
    fn what_is_behind_the_end_is_not_read() {
        let placed = Placed { netns: 7, clsact: [2].into(), prio: false };
        let mut text = serde_json::to_string(&placed).unwrap();
        text.push_str("3],\"prio\":true}");
        assert_eq!(Placed::read(&text), placed);
        assert_eq!(Placed::read(""), Placed::default());
    }
}

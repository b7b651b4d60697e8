//! The files of the registry: how an entry is read, written and removed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::RegistryError;
use super::record::{HoldEntry, HoldRecord};
use crate::gate::failures::Failures;
use crate::gate::hold::delivery_lock::delivery_lock_path;

/// The path of the entry with this id.
pub(super) fn entry_path(directory: &Path, id: u16) -> PathBuf {
    directory.join(format!("{id}.json"))
}

/// Reads an entry. `None` where the file is not an entry, or cannot be read or locked.
pub(super) fn read_entry(path: &Path) -> Option<HoldEntry> {
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

/// Writes an entry in place, because the lock belongs to this very file.
pub(in crate::gate::hold) fn write_in_place(file: &File, record: &HoldRecord) -> io::Result<()> {
    let text = serde_json::to_vec(record)?;
    file.write_all_at(&text, 0)?;
    file.set_len(text.len() as u64)
}

/// Records that the guard has released, through the open file that it shares with the holder.
pub(in crate::gate::hold) fn mark_lifted(file: &File) -> io::Result<()> {
    let mut text = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut text, 0)?;
    let record: HoldRecord = serde_json::from_slice(&text)?;
    write_in_place(file, &HoldRecord { lifted: true, ..record })
}

/// Removes an entry and its delivery lock. A file that is not there counts as removed.
///
/// # Errors
/// Where a file cannot be removed. The other one is removed then.
pub(in crate::gate::hold) fn remove_entry(path: &Path) -> Result<(), RegistryError> {
    let mut failures = Failures::new();
    for path in [delivery_lock_path(path), path.to_owned()] {
        failures.note(match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RegistryError::Io { path, source }),
            _ => Ok(()),
        });
    }
    failures.into_result(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_an_entry_reports_each_file_that_stays() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry_path(dir.path(), 1);
        // Directories cannot be removed as files.
        std::fs::create_dir(&entry).unwrap();
        std::fs::create_dir(delivery_lock_path(&entry)).unwrap();
        let error = remove_entry(&entry).unwrap_err().to_string();
        assert!(error.contains("/1.json: ") && error.contains("/1.deliver: "), "{error}");
    }
}

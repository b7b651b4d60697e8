//! Keeps holder and guard from delivering the same SYNs at the same time.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::fs::lock_within;
use crate::gate::contract::DELIVERY_TIMEOUT;

/// Locks the delivery of a hold: `reloader release` asks the guard to deliver while the holder lives. The lock has a file of its own,
/// because the two share the lock of the registry entry.
///
/// # Errors
/// Where the file cannot be opened or locked. `TimedOut` where the other process does not finish: both may deliver then.
pub(super) fn lock_delivery(entry: &Path) -> io::Result<File> {
    // Without the entry, no process would remove the lock file.
    std::fs::metadata(entry)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(delivery_lock_path(entry))?;
    lock_within(&file, DELIVERY_TIMEOUT)?;
    Ok(file)
}

/// The path of the delivery lock beside a registry entry.
pub(super) fn delivery_lock_path(entry: &Path) -> PathBuf {
    entry.with_extension("deliver")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_the_delivery_lock_ends_with_timed_out() {
        let dir = tempfile::tempdir().unwrap();
        let entry = dir.path().join("1.json");
        File::create(&entry).unwrap();
        let first = lock_delivery(&entry).unwrap();
        let error = lock_delivery(&entry).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(first);
        lock_delivery(&entry).unwrap();
    }
}

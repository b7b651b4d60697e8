//! Whose turn it is to deliver.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::DELIVERY_TIMEOUT;
use crate::fs::lock_within;

/// Keeps holder and guard from delivering the same SYNs at once: `reloader release` asks the guard while the holder lives. On a
/// file of its own, because the two share the lock of the record.
///
/// # Errors
/// Where the file cannot be opened or locked, `TimedOut` where the other one does not come to an end: both may deliver then.
pub(super) fn only_one_delivers(record: &Path) -> io::Result<File> {
    // A record that is gone has nobody who would remove the file.
    std::fs::metadata(record)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(delivery_lock_path(record))?;
    lock_within(&file, DELIVERY_TIMEOUT)?;
    Ok(file)
}

/// The file that says whose turn it is to deliver.
pub(super) fn delivery_lock_path(record: &Path) -> PathBuf {
    record.with_extension("deliver")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_the_turn_to_deliver_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("1.json");
        File::create(&record).unwrap();
        let first = only_one_delivers(&record).unwrap();
        let error = only_one_delivers(&record).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(first);
        only_one_delivers(&record).unwrap();
    }
}

//! Keeps a pid file true: scripts and service managers read from it which process to signal.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::process::BlockingLane;

/// The longest pid file that is read, in bytes.
const LONGEST: usize = 32;

/// Writes a pid file, and writes it again when another program has changed or removed it.
#[derive(Debug, Default)]
pub(crate) struct PidFile {
    lane: BlockingLane,
    /// Whether a look beside the loop is under way.
    is_busy: Arc<AtomicBool>,
}

impl PidFile {
    /// Makes the file contain `pid`, and waits for it. Without `pid` it is removed if it names `earlier`.
    pub(super) async fn store(&self, path: PathBuf, pid: Option<u32>, earlier: Option<u32>) -> io::Result<()> {
        self.lane.run("writing the pid file", move || keep(&path, pid, earlier)).await
    }

    /// Does the same beside the loop.
    pub(super) fn follow(&self, path: PathBuf, pid: Option<u32>, earlier: Option<u32>) {
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let is_busy = self.is_busy.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = keep(&path, pid, earlier) {
                log::warn!("the pid file {} cannot be kept: {error}", path.display());
            }
            is_busy.store(false, Ordering::Release);
        });
    }
}

/// Makes the file contain `pid`. Without `pid` it is removed if it names `earlier`.
fn keep(path: &Path, pid: Option<u32>, earlier: Option<u32>) -> io::Result<()> {
    let found = read(path)?;
    match pid {
        Some(_) if found == pid => Ok(()),
        Some(pid) => write(path, pid),
        None if found.is_some() && found == earlier => fs::remove_file(path),
        None => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<Option<u32>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= LONGEST as u64 => {
            Ok(fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        // Whatever else is there is replaced, and never followed.
        Ok(_) => Ok(None),
    }
}

/// Writes a file beside it, and renames that into place: a reader finds a whole number at every moment.
fn write(path: &Path, pid: u32) -> io::Result<()> {
    let mut name = path.file_name().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?.to_owned();
    name.push(".reloader");
    let temporary = path.with_file_name(name);
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
    io::Write::write_all(&mut file, format!("{pid}\n").as_bytes())?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_kept_and_removed_only_if_it_is_ours() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.pid");
        keep(&path, Some(7), None).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "7\n");
        fs::write(&path, "12\n").unwrap();
        keep(&path, None, Some(7)).unwrap();
        assert_eq!(read(&path).unwrap(), Some(12), "it names another process");
        keep(&path, Some(7), None).unwrap();
        keep(&path, None, Some(7)).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn link_is_replaced_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("a.pid"), directory.path().join("other"));
        fs::write(&other, "text").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        keep(&path, Some(7), None).unwrap();
        assert_eq!((fs::read_to_string(&other).unwrap().as_str(), read(&path).unwrap()), ("text", Some(7)));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}

//! Keeps a pid file true: scripts and service managers read from it which process to signal.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::process::BlockingLane;

/// The longest pid file that is read, in bytes.
const LONGEST: u64 = 32;

/// Writes a pid file, and writes it again when another program has changed or removed it.
#[derive(Debug, Clone, Default)]
pub(crate) struct PidFile {
    /// One change at a time, in the order in which they were wanted.
    lane: BlockingLane,
    /// Whether a look beside the loop is under way.
    is_busy: Arc<AtomicBool>,
    /// The last error, which is logged once.
    last_error: Arc<Mutex<Option<String>>>,
}

impl PidFile {
    /// Makes the file contain `pid`, and waits for it. A failure is logged.
    pub(super) async fn keep(&self, path: PathBuf, pid: u32) {
        self.change(path, move |path| keep(path, pid)).await;
    }

    /// Removes the file if it names `pid`, and waits for it. A failure is logged.
    pub(super) async fn remove(&self, path: PathBuf, pid: u32) {
        self.change(path, move |path| remove(path, pid)).await;
    }

    async fn change(&self, path: PathBuf, change: impl FnOnce(&Path) -> io::Result<()> + Send + 'static) {
        let text = path.display().to_string();
        let changed = self.lane.run("writing the pid file", move || change(&path)).await;
        let error = changed.err().map(|error| format!("the pid file {text} cannot be kept: {error}"));
        let mut last = self.last_error.lock().expect("no panic under this lock");
        if let Some(error) = error.as_ref().filter(|error| last.as_ref() != Some(error)) {
            log::warn!("{error}");
        }
        *last = error;
    }

    /// Makes the file contain `pid` beside the loop, unless the last look is not done.
    pub(super) fn follow(&self, path: PathBuf, pid: u32) {
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            this.keep(path, pid).await;
            this.is_busy.store(false, Ordering::Release);
        });
    }

    /// Why the file cannot be kept, as a sentence. `None` if it is kept.
    pub(super) fn error(&self) -> Option<String> {
        self.last_error.lock().expect("no panic under this lock").clone()
    }

    /// Removes the file beside the loop if it names `pid`.
    pub(super) fn forget(&self, path: PathBuf, pid: u32) {
        let this = self.clone();
        tokio::spawn(async move { this.remove(path, pid).await });
    }
}

fn keep(path: &Path, pid: u32) -> io::Result<()> {
    match read(path)? {
        Found::Pid(found) if found == pid => Ok(()),
        Found::Text => Err(io::Error::other("it has other text than a pid: remove it, or change `pid-file`")),
        Found::Pid(_) | Found::Nothing => write(path, pid),
    }
}

/// What is in a pid file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// There is none, or it is empty, or a link takes its place.
    Nothing,
    Pid(u32),
    /// It belongs to something else.
    Text,
}

fn remove(path: &Path, pid: u32) -> io::Result<()> {
    match read(path)? {
        Found::Pid(found) if found == pid => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// A link is not followed, because the directory may belong to another user.
fn read(path: &Path) -> io::Result<Found> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => fs::File::from(file),
        // A link, a socket, or nothing.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(Found::Nothing),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(Found::Nothing);
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(match text.trim() {
        "" => Found::Nothing,
        text => text.parse().map_or(Found::Text, Found::Pid),
    })
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
        keep(&path, 7).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "7\n");
        fs::write(&path, "12\n").unwrap();
        remove(&path, 7).unwrap();
        assert_eq!(read(&path).unwrap(), Found::Pid(12), "it names another process");
        keep(&path, 7).unwrap();
        remove(&path, 7).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn file_with_other_text_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("haproxy.cfg");
        fs::write(&path, "global\n    user haproxy\n").unwrap();
        assert!(keep(&path, 7).unwrap_err().to_string().contains("other text than a pid"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "global\n    user haproxy\n");
        fs::write(&path, "").unwrap();
        keep(&path, 7).unwrap();
    }

    #[test]
    fn link_is_replaced_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("a.pid"), directory.path().join("other"));
        fs::write(&other, "text").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        keep(&path, 7).unwrap();
        assert_eq!((fs::read_to_string(&other).unwrap().as_str(), read(&path).unwrap()), ("text", Found::Pid(7)));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}

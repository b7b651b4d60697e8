//! Records which groups are steered before they are, so that the next daemon can detach the program where this one was killed.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::SkReuseport;

use crate::fs::write_whole;
use crate::process::{self, Handle};

const FILE: &str = "steered.json";

/// The record of the groups that are steered. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Trace {
    path: PathBuf,
}

impl Trace {
    /// Records that a program is about to be attached to the groups of these sockets, by inode.
    ///
    /// # Errors
    /// Where the file cannot be written. Nothing may be steered then.
    pub(crate) fn leave(runtime_dir: &Path, sockets: &HashSet<u64>) -> io::Result<Trace> {
        let path = runtime_dir.join(FILE);
        write_whole(&path, &serde_json::to_vec(sockets)?)?;
        Ok(Trace { path })
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("{} cannot be removed: {error}", self.path.display());
        }
    }
}

/// Whether a daemon that was killed has left a record.
pub(crate) fn is_left(runtime_dir: &Path) -> bool {
    runtime_dir.join(FILE).exists()
}

/// Detaches what a daemon that was killed has left on groups that still exist. Its lease is over, so it did nothing any more. Returns the
/// number of groups.
pub(crate) fn clean_up(runtime_dir: &Path) -> usize {
    let path = runtime_dir.join(FILE);
    let Ok(text) = std::fs::read(&path) else { return 0 };
    let sockets: HashSet<u64> = serde_json::from_slice(&text).unwrap_or_default();
    let owners = process::sockets_of(&process::pids());
    let found = sockets.iter().filter_map(|inode| Handle::duplicate(*owners.get(inode)?, *inode).ok());
    let removed = found.filter(|socket| SkReuseport::detach(socket).is_ok()).count();
    drop(Trace { path });
    removed
}

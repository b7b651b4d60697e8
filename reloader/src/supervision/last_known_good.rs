//! Keeps copies of the last-known-good configuration in `state-dir/last-known-good`. It is the last configuration that
//! started.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::haproxy::scan::Source;
use crate::process::BlockingLane;

/// Copies of the configuration files.
#[derive(Debug)]
pub(crate) struct LastKnownGood {
    directory: PathBuf,
    saved: Vec<Source>,
    lane: BlockingLane,
}

impl LastKnownGood {
    /// The copies in `state_dir`, as an earlier daemon left them.
    pub(crate) fn open(state_dir: &Path) -> LastKnownGood {
        LastKnownGood { directory: state_dir.join("last-known-good"), saved: Vec::new(), lane: BlockingLane::default() }
    }

    /// Keeps copies of `sources`. They are written without blocking the loop, and not at all if they are kept already.
    ///
    /// # Errors
    /// If the file system returns an error or hangs. After a hang the copies may still be written later.
    pub(crate) async fn save(&mut self, sources: Vec<Source>) -> io::Result<()> {
        if self.saved == sources {
            return Ok(());
        }
        // A write that hangs may be done later. Until a write succeeds, it is unknown what is kept.
        self.saved.clear();
        let (directory, copies) = (self.directory.clone(), sources.clone());
        self.lane.run("storing the copies", move || write(&directory, &copies)).await?;
        self.saved = sources;
        Ok(())
    }

    /// The copies as HAProxy's `-f` takes them, when there are any.
    pub(crate) fn config(&self) -> Option<Vec<PathBuf>> {
        // A daemon killed between the two renames of `save` leaves the copies under the second name.
        let candidates = [self.directory.clone(), self.directory.with_extension("old")];
        candidates.into_iter().find(|directory| directory.is_dir()).map(|directory| vec![directory])
    }
}

fn write(directory: &Path, sources: &[Source]) -> io::Result<()> {
    let [fresh, old] = ["new", "old"].map(|ending| directory.with_extension(ending));
    remove(&fresh)?;
    // The originals may be readable by root only: they hold passwords.
    DirBuilder::new().recursive(true).mode(0o700).create(&fresh)?;
    for (number, (path, bytes)) in sources.iter().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The number keeps the order of the files. HAProxy also reads the files of a directory in the order of their
        // names.
        let mut file = File::create(fresh.join(format!("{number:04}-{}.cfg", name.trim_end_matches(".cfg"))))?;
        file.write_all(bytes)?;
        // A power cut after the renames must not leave empty copies under the good name.
        file.sync_all()?;
    }
    if directory.is_dir() {
        remove(&old)?;
        std::fs::rename(directory, &old)?;
    }
    std::fs::rename(&fresh, directory)?;
    remove(&old)
}

fn remove(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::haproxy::scan;

    #[tokio::test]
    async fn saved_copies_are_read_back_in_order_by_a_later_daemon() {
        let state = tempfile::tempdir().unwrap();
        let sources: Vec<Source> =
            vec![("/etc/z.cfg".into(), b"global\n".to_vec()), ("/etc/a.cfg".into(), b"# \xff\n".to_vec())];
        LastKnownGood::open(state.path()).save(vec![("/etc/old.cfg".into(), b"old".to_vec())]).await.unwrap();
        LastKnownGood::open(state.path()).save(sources.clone()).await.unwrap();
        let config = LastKnownGood::open(state.path()).config().unwrap();
        let read: Vec<Vec<u8>> = scan::read(&config).unwrap().into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(read, [sources[0].1.clone(), sources[1].1.clone()]);
    }

    #[tokio::test]
    async fn a_save_cut_short_leaves_the_earlier_copies() {
        let state = tempfile::tempdir().unwrap();
        LastKnownGood::open(state.path()).save(vec![("/etc/a.cfg".into(), b"one".to_vec())]).await.unwrap();
        std::fs::rename(state.path().join("last-known-good"), state.path().join("last-known-good.old")).unwrap();
        assert!(LastKnownGood::open(state.path()).config().is_some());
        assert!(LastKnownGood::open(&state.path().join("none")).config().is_none());
    }
}

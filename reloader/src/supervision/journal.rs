//! Stores receipts in the journal `state-dir/receipts.jsonl`, one in each line.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::HAPROXY;
use crate::fs::lock_within;
use crate::receipt::{Kind, Receipt};

/// A journal larger than this many bytes becomes `receipts.jsonl.1`.
const ROTATE_AT: u64 = 64 << 20;

/// How long to wait while another process appends to the journal of the same directory. An append takes a moment.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// The file that receipts are appended to.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    path: PathBuf,
    group: u32,
}

impl Journal {
    /// The journal in `state_dir`, readable by `group`.
    pub(crate) fn new(state_dir: &Path, group: u32) -> Journal {
        Journal { path: path(state_dir), group }
    }

    /// Appends a receipt with one write, and tells whether it is stored.
    ///
    /// A line that did not fit (disk full) is removed again, so that the next receipt does not continue it.
    pub(crate) fn append(&self, receipt: &Receipt) -> io::Result<()> {
        let _alone = self.lock();
        self.rotate_when_large()?;
        let mut line = serde_json::to_vec(receipt).map_err(io::Error::other)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
        file.set_permissions(Permissions::from_mode(0o640))?;
        chown(&self.path, None, Some(self.group))?;
        let before = file.metadata()?.len();
        if !ends_with_newline(&self.path, before)? {
            // The last line may be incomplete after a power cut. This receipt must not become part of it.
            line.insert(0, b'\n');
        }
        file.write_all(&line).inspect_err(|_| {
            let _ = file.set_len(before);
        })
    }

    /// Locks the directory, because `reloader hold` and a daemon may append at the same time. Without the lock one could
    /// rotate the other's new line away, or remove it together with an incomplete line of its own. A process that keeps
    /// the directory locked for long does not append to a journal, and is not waited for.
    fn lock(&self) -> Option<File> {
        let directory = File::open(self.path.parent()?).ok()?;
        lock_within(&directory, LOCK_TIMEOUT).ok()?;
        Some(directory)
    }

    /// Renames a journal that is too large, and keeps one earlier journal. With thousands of listeners a receipt has a
    /// megabyte.
    fn rotate_when_large(&self) -> io::Result<()> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_file() && metadata.len() > ROTATE_AT => {
                std::fs::rename(&self.path, rotated(&self.path))
            }
            _ => Ok(()),
        }
    }

    /// The newest receipt of a service. A hold around a command does not count.
    pub(crate) fn last_reload(&self, service: &str) -> Option<Receipt> {
        // Earlier versions had only HAProxy, and their receipts had no name.
        let named = |receipt: &Receipt| receipt.service.as_deref().unwrap_or(HAPROXY) == service;
        let mut count = 1;
        loop {
            let newest = read_newest_in(&self.path, count).ok()?;
            let all_read = newest.len() < count;
            let found = newest.into_iter().find(|receipt| receipt.kind != Kind::Hold && named(receipt));
            if found.is_some() || all_read {
                return found;
            }
            count *= 2;
        }
    }
}

fn ends_with_newline(path: &Path, length: u64) -> io::Result<bool> {
    if length == 0 || !std::fs::metadata(path)?.is_file() {
        return Ok(true);
    }
    let mut last = [0];
    std::os::unix::fs::FileExt::read_exact_at(&File::open(path)?, &mut last, length - 1)?;
    Ok(last == *b"\n")
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("receipts.jsonl")
}

/// The newest receipts of `state_dir`, newest first, at most `count`.
///
/// Lines that are not receipts (of a newer version, or damaged) are passed over with a warning.
///
/// # Errors
/// If the journal cannot be read. A missing journal is not an error.
pub fn read_newest(state_dir: &Path, count: usize) -> io::Result<Vec<Receipt>> {
    let newest = path(state_dir);
    let mut receipts = read_newest_in(&newest, count)?;
    if receipts.len() < count {
        receipts.extend(read_newest_in(&rotated(&newest), count - receipts.len())?);
    }
    Ok(receipts)
}

fn rotated(journal: &Path) -> PathBuf {
    journal.with_extension("jsonl.1")
}

fn read_newest_in(path: &Path, count: usize) -> io::Result<Vec<Receipt>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut wanted = count;
    loop {
        let lines = newest_lines(&mut file, wanted)?;
        let receipts: Vec<Receipt> = lines.iter().filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let all_read = lines.len() < wanted;
        if receipts.len() >= count || all_read {
            if receipts.len() < lines.len() {
                log::warn!("{}: {} lines are not receipts", path.display(), lines.len() - receipts.len());
            }
            return Ok(receipts.into_iter().take(count).collect());
        }
        // Damaged lines do not count.
        wanted = wanted.saturating_mul(2);
    }
}

/// The last `count` lines, last first: read from the end, because a journal grows for years.
fn newest_lines(file: &mut (impl Read + Seek), count: usize) -> io::Result<Vec<Vec<u8>>> {
    const BLOCK: u64 = 64 * 1024;
    let mut start = file.seek(SeekFrom::End(0))?;
    // Last first.
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    let mut ends = 0;
    while start > 0 && ends <= count {
        let length = BLOCK.min(start);
        start -= length;
        file.seek(SeekFrom::Start(start))?;
        let mut block = vec![0; length as usize];
        file.read_exact(&mut block)?;
        ends += block.iter().filter(|byte| **byte == b'\n').count();
        blocks.push(block);
    }
    blocks.reverse();
    let tail = blocks.concat();
    let lines = tail.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.rev().take(count).map(<[u8]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rustix::fs::{FlockOperation, flock};

    use super::*;

    fn journal(state_dir: &Path) -> Journal {
        Journal::new(state_dir, rustix::process::getegid().as_raw())
    }

    fn receipt(kind: Kind, number: u64) -> Receipt {
        crate::receipt::Recorder::begin(Some("haproxy"), kind, Instant::now(), number, None).finish(Ok(()))
    }

    #[test]
    fn lines_come_newest_first_across_blocks() {
        let long = "x".repeat(50_000);
        let text = format!("one\n{long}\ntwo{long}\nthree\n");
        let newest = |count| newest_lines(&mut io::Cursor::new(text.as_bytes()), count).unwrap();
        assert_eq!(newest(1), [b"three".to_vec()]);
        assert_eq!(newest(2)[1].len(), 50_003);
        assert_eq!(newest(9).last().unwrap(), b"one");
    }

    #[test]
    fn damaged_lines_are_skipped_and_the_next_receipt_is_read() {
        let state = tempfile::tempdir().unwrap();
        let journal = journal(state.path());
        journal.append(&receipt(Kind::Reload, 1)).unwrap();
        std::fs::write(
            path(state.path()),
            [std::fs::read(path(state.path())).unwrap(), b"x\ny\n{\"half".to_vec()].concat(),
        )
        .unwrap();
        journal.append(&receipt(Kind::Reload, 2)).unwrap();
        let read = |count| read_newest(state.path(), count).unwrap().iter().map(|r| r.coalesced).collect::<Vec<_>>();
        assert_eq!((read(1), read(2), read(9)), (vec![2], vec![2, 1], vec![2, 1]));
    }

    #[test]
    fn hold_does_not_count_as_a_reload() {
        let state = tempfile::tempdir().unwrap();
        let journal = journal(state.path());
        let last = || journal.last_reload(HAPROXY).map(|receipt| receipt.coalesced);
        assert_eq!(last(), None);
        for (kind, number) in [(Kind::Start, 1), (Kind::Reload, 2), (Kind::Hold, 3), (Kind::Hold, 4)] {
            journal.append(&receipt(kind, number)).unwrap();
        }
        assert_eq!(last(), Some(2));
    }

    /// A journal that finds the file too large while another has just rotated it would rotate the new one over the old.
    #[test]
    fn two_journals_of_one_directory_lose_nothing() {
        for _ in 0..100 {
            let state = tempfile::tempdir().unwrap();
            let [newest, rotated] = [path(state.path()), rotated(&path(state.path()))];
            File::create(&newest).unwrap().set_len(ROTATE_AT + 1).unwrap();
            let start = std::sync::Barrier::new(2);
            let append = |number| {
                start.wait();
                journal(state.path()).append(&receipt(Kind::Hold, number)).unwrap();
            };
            std::thread::scope(|scope| {
                let beside = scope.spawn(|| append(1));
                append(2);
                beside.join().unwrap();
            });
            assert_eq!(std::fs::read_to_string(newest).unwrap().lines().count(), 2);
            assert_eq!(std::fs::metadata(rotated).unwrap().len(), ROTATE_AT + 1);
        }
    }

    #[test]
    fn receipt_is_stored_while_another_process_locks_the_directory() {
        let state = tempfile::tempdir().unwrap();
        let directory = File::open(state.path()).unwrap();
        flock(&directory, FlockOperation::LockExclusive).unwrap();
        journal(state.path()).append(&receipt(Kind::Reload, 1)).unwrap();
        assert_eq!(read_newest(state.path(), 9).unwrap().len(), 1);
    }
}

//! Works with files and directories: whole writes, locks with a time limit, directories that belong to the caller alone, the files of a
//! generation.

pub(crate) mod accounts;
pub(crate) mod exclusive_dir;
pub(crate) mod generation_files;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Writes the file whole or not at all. A reader finds either the earlier content or `bytes`.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(temporary, path)
}

/// Reads a plain file of at most `longest` bytes. A device or a pipe may never end.
///
/// # Errors
/// The file cannot be read, is longer, or is no plain file.
pub(crate) fn read_plain(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let is_plain = std::fs::metadata(path)?.is_file();
    if !is_plain || File::open(path)?.take(longest + 1).read_to_end(&mut bytes)? as u64 > longest {
        return Err(io::Error::other("it is too long, or no plain file"));
    }
    Ok(bytes)
}

/// Locks the file for this process alone. Gives up after `timeout`, because another process may be stopped while it has the lock.
///
/// # Errors
/// `TimedOut` where another process keeps the lock for that long.
#[expect(clippy::disallowed_methods, reason = "flock(2) has no time limit of its own; each caller sets one")]
pub(crate) fn lock_within(file: &File, timeout: Duration) -> io::Result<()> {
    let end = Instant::now() + timeout;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < end => sleep(Duration::from_millis(1)),
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

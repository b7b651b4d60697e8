//! Works with files and directories: whole writes, locks with a time limit, directories that belong to the caller alone, the files of a
//! generation.

pub(crate) mod accounts;
pub(crate) mod exclusive_dir;
pub(crate) mod generation_files;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

const NOT_PLAIN: &str = "it is no plain file";

/// Writes the file whole or not at all. A reader finds either the earlier content or `bytes`.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = begun(path);
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(temporary, path)
}

/// The name that [`write_whole`] gives a file until it is whole. A process that is killed meanwhile leaves it.
pub(crate) fn begun(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

/// Reads a plain file of at most `longest` bytes. A device or a pipe may never end.
///
/// # Errors
/// The file cannot be read, is longer, or is no plain file.
pub(crate) fn read_plain(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    // Opening a device may have effects of its own.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other(NOT_PLAIN));
    }
    read_opened(&open_at_once(path)?, longest)
}

/// Opens a file for reading. A pipe that took the place of the file meanwhile does not make it wait.
fn open_at_once(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

fn read_opened(file: &File, longest: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(NOT_PLAIN));
    }
    if file.take(longest + 1).read_to_end(&mut bytes)? as u64 > longest {
        return Err(io::Error::other(format!("it is longer than {longest} bytes")));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipe_in_the_place_of_a_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR).unwrap();
        // As where the pipe came after the first look.
        let error = read_opened(&open_at_once(&pipe).unwrap(), 1).unwrap_err();
        assert_eq!(error.to_string(), NOT_PLAIN);
        assert_eq!(read_plain(&pipe, 1).unwrap_err().to_string(), NOT_PLAIN);
        std::fs::write(directory.path().join("file"), "ab").unwrap();
        let read = |longest| read_plain(&directory.path().join("file"), longest);
        assert_eq!((read(2).unwrap(), read(1).is_err()), (b"ab".to_vec(), true));
    }
}

//! Files that several processes have in common, or several lives of one.

use std::fs::File;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Locks the file for this process alone. Whoever has it locked may have been stopped: nobody waits without end.
///
/// # Errors
/// `TimedOut` where somebody else keeps the lock for so long.
pub(crate) fn lock_within(file: &File, patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < end => sleep(Duration::from_millis(1)),
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

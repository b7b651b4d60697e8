//! Keeps two runs on one machine out of each other's measurements: a test of the lane `alone` has the machine to itself.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::interrupt;

/// Of the whole machine; only root writes there.
const FILE: &str = "/run/lock/reloader-tests";

/// flock(2) tells nobody that it has become free except one who sleeps in it, and that one cannot be interrupted in order.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The lock; dropped, it is free.
pub(super) struct MachineLock(#[expect(dead_code, reason = "held, never read")] Flock<File>);

impl MachineLock {
    /// Beside all that do not need the machine to themselves.
    pub(super) fn shared() -> Result<MachineLock> {
        MachineLock::lock(FlockArg::LockSharedNonblock)
    }

    /// Beside no one.
    pub(super) fn alone() -> Result<MachineLock> {
        MachineLock::lock(FlockArg::LockExclusiveNonblock)
    }

    fn lock(kind: FlockArg) -> Result<MachineLock> {
        std::fs::create_dir_all("/run/lock").context("/run/lock")?;
        let mut file = File::options().create(true).append(true).open(FILE).context(FILE)?;
        loop {
            interrupt::check()?;
            match Flock::lock(file, kind) {
                Ok(lock) => return Ok(MachineLock(lock)),
                Err((back, Errno::EAGAIN | Errno::EINTR)) => file = back,
                Err((_, errno)) => return Err(errno).context(FILE),
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

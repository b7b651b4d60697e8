//! Serialises runs on one machine, so that they do not disturb each other's measurements: a test of the lane `alone` has the machine to
//! itself.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::interrupt;

/// The lock file of the whole machine, in a directory where only root writes.
const FILE: &str = "/run/reloader-tests.lock";

/// How often the lock is tried: a process that sleeps in flock(2) cannot check whether the run was interrupted.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The lock, released on drop. Users other than root run no test that needs it, so for them it is empty.
pub(crate) struct MachineLock(#[expect(dead_code, reason = "held, never read")] Option<Flock<File>>);

impl MachineLock {
    /// For work that may run beside all other work that does not need the machine to itself.
    pub(crate) fn shared() -> Result<MachineLock> {
        MachineLock::lock(FlockArg::LockSharedNonblock)
    }

    /// For work that needs the machine to itself.
    pub(crate) fn alone() -> Result<MachineLock> {
        MachineLock::lock(FlockArg::LockExclusiveNonblock)
    }

    fn lock(kind: FlockArg) -> Result<MachineLock> {
        if !rustix::process::geteuid().is_root() {
            return Ok(MachineLock(None));
        }
        let mut is_announced = false;
        let mut file = File::options().create(true).append(true).open(FILE).context(FILE)?;
        loop {
            interrupt::check()?;
            match Flock::lock(file, kind) {
                Ok(lock) => return Ok(MachineLock(Some(lock))),
                Err((back, Errno::EAGAIN | Errno::EINTR)) => {
                    if !std::mem::replace(&mut is_announced, true) {
                        eprintln!("waiting for another run of the tests on this machine ({FILE})");
                    }
                    file = back;
                }
                Err((_, errno)) => return Err(errno).context(FILE),
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

//! What is common to everything that calls bpf(2).

use std::error::Error;
use std::io;
use std::time::Duration;

use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::programs::tc::TcError;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The error number at the bottom of an error. Many of aya's errors are transparent: they stand for the error in them, and
/// name only what lies behind it as their source. Those have to be opened by name.
pub(crate) fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(own_number).map(Errno::from_raw_os_error)
}

fn own_number(error: &(dyn Error + 'static)) -> Option<i32> {
    if let Some(error) = error.downcast_ref::<ProgramError>() {
        return match error {
            ProgramError::TcError(error) => own_number(error),
            ProgramError::NetlinkError(error) => error.raw_os_error(),
            ProgramError::IOError(error) => error.raw_os_error(),
            _ => None,
        };
    }
    match error.downcast_ref::<TcError>() {
        Some(TcError::IoError(error)) => error.raw_os_error(),
        Some(TcError::NetlinkError(error)) => error.raw_os_error(),
        _ => error.downcast_ref::<io::Error>()?.raw_os_error(),
    }
}

/// The error with its causes, leaving out those that their parent has already said.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

/// Why bpf(2) as such is not to be had: EPERM or EACCES where it is denied, ENOSYS where it is hidden or missing. A verifier
/// that refuses one program says EACCES too, but gives its reasons.
pub(crate) fn denial(error: &(dyn Error + 'static)) -> Option<Errno> {
    let errno = errno(error).filter(|errno| matches!(*errno, Errno::PERM | Errno::ACCESS | Errno::NOSYS));
    errno.filter(|_| !verifier_spoke(error))
}

fn verifier_spoke(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref::<ProgramError>() {
        Some(ProgramError::LoadError { verifier_log, .. }) => !verifier_log.to_string().trim().is_empty(),
        _ => error.source().is_some_and(verifier_spoke),
    }
}

/// Below Linux 5.11 BPF memory counts against RLIMIT_MEMLOCK: lifted for as long as `work` takes, here and not left to aya, which
/// does it once in a process and not again after it was restored. Restored, because the server that this daemon starts must
/// get the limits that the daemon was given.
pub(crate) fn with_memlock_restored<T>(work: impl FnOnce() -> T) -> T {
    let before = getrlimit(Resource::Memlock);
    let lifted = Rlimit { current: None, maximum: None };
    // Where it is not ours to lift, a later kernel does not ask for it, and an earlier one says EPERM.
    if before != lifted && setrlimit(Resource::Memlock, lifted).is_err() {
        let _ = setrlimit(Resource::Memlock, Rlimit { current: before.maximum, ..before });
    }
    let result = work();
    if getrlimit(Resource::Memlock) != before
        && let Err(error) = setrlimit(Resource::Memlock, before)
    {
        log::warn!("could not restore RLIMIT_MEMLOCK after a call of bpf(2): {error}");
    }
    result
}

/// Memory for the entries of a map that is not preallocated. The kernel gets it in the background (`bpf_mem_refill`, and for values of each
/// CPU `pcpu_balance_workfn`), and says ENOMEM when it is asked for more than it has ready.
pub(crate) struct Room {
    /// How long it is waited for yet, all entries together: the caller may have a lease to renew.
    patience: Duration,
}

impl Room {
    pub(crate) fn new() -> Room {
        Room { patience: Duration::from_millis(200) }
    }

    /// Inserts one entry.
    ///
    /// # Errors
    /// As of `insert`.
    pub(crate) fn make(&mut self, mut insert: impl FnMut() -> Result<(), MapError>) -> Result<(), MapError> {
        const PAUSE: Duration = Duration::from_millis(1);
        loop {
            match insert() {
                Err(error) if errno(&error) == Some(Errno::NOMEM) && !self.patience.is_zero() => {
                    std::thread::sleep(PAUSE);
                    self.patience = self.patience.saturating_sub(PAUSE);
                }
                done => return done,
            }
        }
    }
}

/// The verifier's log retells the whole program; only its last sentence says what is wrong.
pub(crate) fn verdict(reason: &str) -> String {
    log::debug!("bpf(2) refuses the program: {reason}");
    let Some((what, log)) = reason.split_once("Verifier output:") else {
        return reason.to_owned();
    };
    let statistics =
        |line: &&str| ["verification time", "stack depth", "processed", "."].iter().any(|s| line.starts_with(s));
    match log.lines().map(str::trim).rfind(|line| !line.is_empty() && !statistics(line)) {
        Some(last) => format!("{} {last}", what.trim()),
        None => what.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_ready_is_waited_for_and_nothing_else_is() {
        let refused = |errno: Errno| {
            let call = "bpf_map_update_elem";
            Err(MapError::SyscallError(aya::sys::SyscallError { call, io_error: errno.into() }))
        };
        let mut answers = [refused(Errno::NOMEM), refused(Errno::NOMEM), Ok(()), Ok(())].into_iter();
        Room::new().make(|| answers.next().unwrap()).unwrap();
        assert_eq!(answers.len(), 1);
        let mut asked = 0;
        let full = Room::new().make(|| {
            asked += 1;
            refused(Errno::TOOBIG)
        });
        assert_eq!((full.is_err(), asked), (true, 1));
        let mut over = Room { patience: Duration::ZERO };
        assert!(over.make(|| refused(Errno::NOMEM)).is_err());
    }

    #[test]
    fn of_the_verifiers_log_only_the_verdict_is_told() {
        let reason = "the BPF_PROG_LOAD syscall returned EACCES. Verifier output: 0: R1=ctx()\n1: (0f) r5 += r4\n\
                      R5 prohibited for !root\nverification time 1 usec\nstack depth 0\nprocessed 27 insns\n";
        assert_eq!(verdict(reason), "the BPF_PROG_LOAD syscall returned EACCES. R5 prohibited for !root");
        assert_eq!(verdict("no such file"), "no such file");
    }

    #[test]
    fn the_limit_is_lifted_each_time_and_restored() {
        let before = getrlimit(Resource::Memlock);
        for _ in 0..2 {
            let during = with_memlock_restored(|| getrlimit(Resource::Memlock));
            assert!(during.current.is_none() || during.current == before.maximum, "{during:?}");
            assert_eq!(getrlimit(Resource::Memlock), before);
        }
    }
}

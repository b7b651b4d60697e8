//! Reads errors, lifts the memory limit and waits for memory, for all callers of bpf(2).

use std::error::Error;
use std::io;
use std::time::Duration;

use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::programs::tc::TcError;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The error number at the bottom of an error. Many of aya's errors are transparent: `source` skips the error that they wrap, and returns the
/// source of that error. So the wrapped error is taken from the variant.
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

/// The text of an error with its causes. A cause is left out if the text before it already contains it.
pub(crate) fn error_chain(error: &(dyn Error + 'static)) -> String {
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

/// The error number if bpf(2) as such is not available: EPERM or EACCES where it is denied, ENOSYS where it is hidden or missing.
/// A verifier that refuses one program answers EACCES too, but with a log.
pub(crate) fn denial(error: &(dyn Error + 'static)) -> Option<Errno> {
    let errno = errno(error).filter(|errno| matches!(*errno, Errno::PERM | Errno::ACCESS | Errno::NOSYS));
    errno.filter(|_| !has_verifier_log(error))
}

fn has_verifier_log(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref::<ProgramError>() {
        Some(ProgramError::LoadError { verifier_log, .. }) => !verifier_log.to_string().trim().is_empty(),
        _ => error.source().is_some_and(has_verifier_log),
    }
}

/// Lifts RLIMIT_MEMLOCK for as long as `work` takes, because below Linux 5.11 BPF memory counts against it. aya lifts it only once in a process,
/// and so not again after the limit was restored. The limit is restored, because the server that this daemon starts must get the limits that the
/// daemon was given.
pub(crate) fn with_memlock_restored<T>(work: impl FnOnce() -> T) -> T {
    let before = getrlimit(Resource::Memlock);
    let lifted = Rlimit { current: None, maximum: None };
    // Without the right to lift the limit, only the soft limit is raised. Kernels from 5.11 on need no higher limit. An
    // earlier kernel may answer EPERM to bpf(2).
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

/// Waits for memory for the entries of a map that is not preallocated. The kernel gets that memory in the background
/// (`bpf_mem_refill`, and for per-CPU values `pcpu_balance_workfn`), and answers ENOMEM when it is asked for more than it has
/// ready.
pub(crate) struct MapMemory {
    /// How long to wait at most, for all entries together: the caller may have a lease to renew.
    remaining: Duration,
}

impl MapMemory {
    pub(crate) fn new() -> MapMemory {
        MapMemory { remaining: Duration::from_millis(200) }
    }

    /// Inserts one entry by calling `insert`, again after each ENOMEM.
    ///
    /// # Errors
    /// The error of `insert`.
    #[expect(
        clippy::disallowed_methods,
        reason = "no event tells that the kernel has the memory; a map waits 200 ms in all"
    )]
    pub(crate) fn insert(&mut self, mut insert: impl FnMut() -> Result<(), MapError>) -> Result<(), MapError> {
        const PAUSE: Duration = Duration::from_millis(1);
        loop {
            match insert() {
                Err(error) if errno(&error) == Some(Errno::NOMEM) && !self.remaining.is_zero() => {
                    std::thread::sleep(PAUSE);
                    self.remaining = self.remaining.saturating_sub(PAUSE);
                }
                done => return done,
            }
        }
    }
}

/// Shortens the verifier's log in a reason to its last sentence, which names the fault. The rest repeats the whole program.
pub(crate) fn shorten_verifier_log(reason: &str) -> String {
    log::debug!("bpf(2) refuses the program: {reason}");
    let Some((call, log)) = reason.split_once("Verifier output:") else {
        return reason.to_owned();
    };
    let statistics =
        |line: &&str| ["verification time", "stack depth", "processed", "."].iter().any(|s| line.starts_with(s));
    match log.lines().map(str::trim).rfind(|line| !line.is_empty() && !statistics(line)) {
        Some(last) => format!("{} {last}", call.trim()),
        None => call.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insert_is_repeated_after_enomem_only() {
        let refused = |errno: Errno| {
            let call = "bpf_map_update_elem";
            Err(MapError::SyscallError(aya::sys::SyscallError { call, io_error: errno.into() }))
        };
        let mut answers = [refused(Errno::NOMEM), refused(Errno::NOMEM), Ok(()), Ok(())].into_iter();
        MapMemory::new().insert(|| answers.next().unwrap()).unwrap();
        assert_eq!(answers.len(), 1);
        let mut asked = 0;
        let full = MapMemory::new().insert(|| {
            asked += 1;
            refused(Errno::TOOBIG)
        });
        assert_eq!((full.is_err(), asked), (true, 1));
        let mut exhausted = MapMemory { remaining: Duration::ZERO };
        assert!(exhausted.insert(|| refused(Errno::NOMEM)).is_err());
    }

    #[test]
    fn verifier_log_is_shortened_to_its_last_sentence() {
        let reason = "the BPF_PROG_LOAD syscall returned EACCES. Verifier output: 0: R1=ctx()\n1: (0f) r5 += r4\n\
                      R5 prohibited for !root\nverification time 1 usec\nstack depth 0\nprocessed 27 insns\n";
        assert_eq!(shorten_verifier_log(reason), "the BPF_PROG_LOAD syscall returned EACCES. R5 prohibited for !root");
        assert_eq!(shorten_verifier_log("no such file"), "no such file");
    }

    #[test]
    fn memlock_limit_is_lifted_each_time_and_restored() {
        let before = getrlimit(Resource::Memlock);
        for _ in 0..2 {
            let during = with_memlock_restored(|| getrlimit(Resource::Memlock));
            assert!(during.current.is_none() || during.current == before.maximum, "{during:?}");
            assert_eq!(getrlimit(Resource::Memlock), before);
        }
    }
}

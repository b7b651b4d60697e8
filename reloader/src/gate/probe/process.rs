//! Tries pidfds, on the calling process.

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::ability::{Ability, Finding};

pub(super) fn abilities() -> [Ability; 2] {
    let own = pidfd_open(getpid(), PidfdFlags::empty());
    let duplicate = own.as_ref().map_err(|errno| *errno).and_then(duplicate_of);
    [
        Ability::new("pidfd-open", finding("pidfd_open", own.err()), |present| match present {
            Some(true) => "processes that are not our children are signalled without a race",
            _ => "processes that are not our children are signalled by pid and start time",
        }),
        Ability::new("pidfd-getfd", finding("pidfd_getfd", duplicate.err()), |present| match present {
            Some(true) => "listeners of any server can be duplicated, given CAP_SYS_PTRACE",
            _ => "listeners come from HAProxy's _getsocks only: HAProxy before 1.8 and other servers cannot be steered",
        }),
    ]
}

fn duplicate_of(pidfd: &OwnedFd) -> Result<OwnedFd, Errno> {
    pidfd_getfd(pidfd, pidfd.as_raw_fd(), PidfdGetfdFlags::empty())
}

fn finding(call: &str, error: Option<Errno>) -> Finding {
    match error {
        None => (Some(true), format!("{call}(2) worked on this process")),
        Some(Errno::NOSYS) => {
            (Some(false), format!("{call}(2) answers ENOSYS: the kernel is older, or a seccomp filter hides it"))
        }
        Some(errno) => (Some(false), format!("{call}(2) is denied: {errno}")),
    }
}

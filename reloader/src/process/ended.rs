//! Tells how a process ended.

use std::os::fd::BorrowedFd;

use super::procfs::zombie_status;
use super::{effective_capabilities, has_ended};
use crate::sys;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
    /// Its status is not known, because it was not our child.
    Unknown,
}

/// CAP_SYS_PTRACE of capabilities(7).
const SYS_PTRACE: u64 = 1 << 19;

impl Ended {
    /// Decodes a status of waitpid(2). `None` for a process that was stopped or continued.
    pub(super) fn from_wait_status(status: i32) -> Option<Ended> {
        match status & 0x7f {
            0 => Some(Ended::Exited((status >> 8) & 0xff)),
            0x7f => None,
            signal => Some(Ended::Killed(signal)),
        }
    }

    /// How a process ended that is not our child. `None` while it lives.
    ///
    /// The status is in `/proc` until the parent takes it, and from Linux 6.15 on in the pidfd after that.
    pub(super) fn of_stranger(pid: u32, start_time: u64, pidfd: Option<BorrowedFd<'_>>) -> Option<Ended> {
        if !has_ended(pid, start_time) {
            return None;
        }
        // The kernel shows 0 to a reader that may not know the status (`do_task_stat`).
        let may_know = |status: &i32| *status != 0 || effective_capabilities() & SYS_PTRACE != 0;
        let unreaped = zombie_status(pid, start_time).filter(may_know);
        let status = unreaped.or_else(|| sys::exit_status(pidfd?));
        Some(status.and_then(Ended::from_wait_status).unwrap_or(Ended::Unknown))
    }

    /// True if the process exited with status 0.
    pub fn is_orderly(self) -> bool {
        self == Ended::Exited(0)
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Exited(status) => write!(f, "exited with status {status}"),
            Ended::Killed(signal) => write!(f, "was killed by signal {signal}"),
            Ended::Unknown => write!(f, "ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

    use super::*;
    use crate::process::start_time;

    #[test]
    fn a_wait_status_is_decoded() {
        assert_eq!(Ended::from_wait_status(0), Some(Ended::Exited(0)));
        assert_eq!(Ended::from_wait_status(3 << 8), Some(Ended::Exited(3)));
        assert_eq!(Ended::from_wait_status(9), Some(Ended::Killed(9)));
        assert_eq!(Ended::from_wait_status(11 | 0x80), Some(Ended::Killed(11)), "with a core dump");
        assert_eq!(Ended::from_wait_status(0x137f), None, "stopped");
    }

    /// Linux keeps the status in the pidfd from 6.15 on.
    fn keeps_status() -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
        (numbers.next(), numbers.next()) >= (Some(6), Some(15))
    }

    /// The parent here stands for another process: `of_stranger` does not ask waitpid(2).
    #[test]
    fn status_of_another_process_is_read_before_and_after_its_parent_takes_it() {
        for (script, expected) in [("read x; exit 7", Ended::Exited(7)), ("read x; kill -9 $$", Ended::Killed(9))] {
            let mut child =
                Command::new("/bin/sh").args(["-c", script]).stdin(std::process::Stdio::piped()).spawn().unwrap();
            let (pid, started) = (child.id(), start_time(child.id()).unwrap());
            let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            assert_eq!(Ended::of_stranger(pid, started, Some(pidfd.as_fd())), None);
            drop(child.stdin.take());
            waitid(WaitId::Pid(Pid::from_child(&child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
            assert_eq!(Ended::of_stranger(pid, started, Some(pidfd.as_fd())), Some(expected));
            child.wait().unwrap();
            let after = if keeps_status() { expected } else { Ended::Unknown };
            assert_eq!(Ended::of_stranger(pid, started, Some(pidfd.as_fd())), Some(after));
        }
    }
}

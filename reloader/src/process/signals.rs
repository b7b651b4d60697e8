//! What a process makes of signals, from its `/proc/PID/status`.

use rustix::io::Errno;
use rustix::process::{Pid, Signal, test_kill_process};

use super::procfs::status_line;

/// Whether a process handles, ignores or blocks a signal (SigCgt, SigIgn and SigBlk of proc_pid_status(5)): one that does not ends by it.
pub fn handles_signal(pid: u32, signal: Signal) -> bool {
    ["SigCgt:", "SigIgn:", "SigBlk:"].iter().any(|mask| is_in(pid, mask, signal))
}

/// Whether a signal waits until a process unblocks it.
pub fn is_pending(pid: u32, signal: Signal) -> bool {
    ["ShdPnd:", "SigPnd:"].iter().any(|mask| is_in(pid, mask, signal))
}

/// Whether this process may not send a signal to it (kill(2), EPERM).
pub fn cannot_signal(pid: u32) -> bool {
    Pid::from_raw(pid as i32).is_some_and(|pid| test_kill_process(pid) == Err(Errno::PERM))
}

fn is_in(pid: u32, mask: &str, signal: Signal) -> bool {
    let mask = status_line(pid, mask).and_then(|line| u64::from_str_radix(line.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_does_not_mind_a_signal_ends_by_it() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        // The runtime of Rust ignores SIGPIPE, and gives it back to its children.
        assert!(handles_signal(std::process::id(), Signal::PIPE));
        assert!(!handles_signal(child.id(), Signal::USR2) && !is_pending(child.id(), Signal::USR2));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

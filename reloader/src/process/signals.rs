//! Reads how a process treats signals (`/proc/PID/status`).

use std::str::FromStr;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, test_kill_process};

use super::procfs::status_line;

/// The signal of a name or a number: `USR1`, `SIGUSR1`, `10`.
pub fn signal_by_name(text: &str) -> Option<Signal> {
    let upper = text.to_ascii_uppercase();
    let named = || nix::sys::signal::Signal::from_str(&format!("SIG{}", upper.trim_start_matches("SIG"))).ok();
    let number = text.parse().ok().or_else(|| named().map(|signal| signal as i32))?;
    Signal::from_named_raw(number)
}

/// The name of a signal, or its number where it has none.
pub fn signal_name(signal: Signal) -> String {
    let raw = signal.as_raw();
    nix::sys::signal::Signal::try_from(raw)
        .map_or_else(|_| format!("signal {raw}"), |signal| signal.as_str().to_owned())
}

/// Whether a process handles, ignores or blocks a signal (SigCgt, SigIgn and SigBlk of proc_pid_status(5)). If it does none of
/// these, the signal's default action applies, which ends the process for most signals.
pub fn handles_signal(pid: u32, signal: Signal) -> bool {
    ["SigCgt:", "SigIgn:", "SigBlk:"].iter().any(|mask| is_in(pid, mask, signal))
}

/// Whether a signal is pending until the process unblocks it (ShdPnd and SigPnd of proc_pid_status(5)).
pub fn is_pending(pid: u32, signal: Signal) -> bool {
    ["ShdPnd:", "SigPnd:"].iter().any(|mask| is_in(pid, mask, signal))
}

/// Whether this process may not send signals to that one (EPERM of kill(2)).
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
    fn signals_have_names_and_numbers() {
        for text in ["USR1", "SIGUSR1", "usr1", "10"] {
            assert_eq!(signal_by_name(text), Some(Signal::USR1), "{text}");
        }
        assert_eq!((signal_by_name("SIGNOTHING"), signal_by_name("0"), signal_by_name("99")), (None, None, None));
        assert_eq!(signal_name(Signal::USR1), "SIGUSR1");
    }

    #[test]
    fn a_signal_with_its_default_action_is_not_handled() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        // Rust's runtime ignores SIGPIPE, and restores its default action in children.
        assert!(handles_signal(std::process::id(), Signal::PIPE));
        assert!(!handles_signal(child.id(), Signal::USR2) && !is_pending(child.id(), Signal::USR2));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

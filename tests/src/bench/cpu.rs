//! Measures the processor time of all processes in this process namespace, except the calling one, which is its PID 1.
//!
//! A process that ends is waited for by its parent, or by PID 1 if it is an orphan. Its time is then added to the
//! process that waited (getrusage(2)), so every moment is counted once.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{SysconfVar, sysconf};

use crate::poll::satisfied_within;

/// How long a server may take to end after the signal.
const END: Duration = Duration::from_secs(20);

/// The time used so far, by ended and by running processes. For a running process it is exact to a hundredth of a
/// second.
pub(super) fn used() -> Duration {
    running() + ended()
}

/// Waits until all processes have ended, then gives the time they have used.
pub(super) fn used_by_all() -> Result<Duration> {
    let all_ended = satisfied_within(END, || {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return false,
                Err(Errno::ECHILD) => return true,
                _ => {}
            }
        }
    });
    ensure!(
        all_ended,
        "processes of the server still run {END:?} after its end: their processor time would be missing"
    );
    Ok(ended())
}

fn ended() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
    let micros = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec().cast_unsigned()) + Duration::from_micros(time.tv_usec().cast_unsigned())
    };
    micros(usage.user_time()) + micros(usage.system_time())
}

fn running() -> Duration {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| *pid != own);
    let ticks: u64 = pids.filter_map(|pid| ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Duration::from_secs_f64(ticks as f64 / per_second as f64)
}

/// utime, stime, cutime and cstime: proc_pid_stat(5), fields 14 to 17.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').skip(11).take(4).map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_includes_reaped_children() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 2143 0 0 0 5 6 70 80 20 0 1 0 123 9 9";
        assert_eq!(ticks(stat), Some(5 + 6 + 70 + 80));
        assert_eq!(ticks("nonsense"), None);
    }
}

//! Reads the monotonic clock, in the form that system calls and BPF programs use.

use std::time::Duration;

use rustix::event::Timespec;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC. All processes read the same value, and so does `bpf_ktime_get_ns` in BPF programs.
pub(crate) fn monotonic_ns() -> u64 {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).map_or(0, |time| time.as_nanos() as u64)
}

/// A duration as poll(2) takes it.
pub(crate) fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}

//! Time as system calls and BPF programs count it.

use std::time::Duration;

use rustix::event::Timespec;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC, which all processes read alike; `bpf_ktime_get_ns` counts it too.
pub(crate) fn monotonic() -> u64 {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).map_or(0, |time| time.as_nanos() as u64)
}

/// For poll(2).
pub(crate) fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}

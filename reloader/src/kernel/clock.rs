//! The clock that processes and eBPF programs read alike.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC, which `bpf_ktime_get_ns` counts.
pub(crate) fn monotonic() -> u64 {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).map_or(0, |time| time.as_nanos() as u64)
}

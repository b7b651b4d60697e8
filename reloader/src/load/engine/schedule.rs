//! Times at which the starts of an open loop are due.

use std::time::{Duration, Instant};

/// When each start is due: `rate` per second from the beginning, up to a limit.
pub(super) struct Schedule {
    pub(super) begin: Instant,
    rate: u32,
    limit: u64,
    started: u64,
}

impl Schedule {
    pub(super) fn new(rate: u32, limit: u64) -> Schedule {
        Schedule { begin: Instant::now(), rate, limit, started: 0 }
    }

    /// How many starts have been taken.
    pub(super) fn started(&self) -> u64 {
        self.started
    }

    /// When the next start is due; `None` where the limit is reached.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let nanos = u128::from(self.started) * 1_000_000_000 / u128::from(self.rate);
        (self.started < self.limit).then(|| self.begin + Duration::from_nanos(nanos as u64))
    }

    /// Takes the next start, and gives its number.
    pub(super) fn take(&mut self) -> u64 {
        self.started += 1;
        self.started - 1
    }
}

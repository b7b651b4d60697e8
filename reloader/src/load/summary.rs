//! Counts and latencies of many outcomes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::outcome::{Failure, Outcome};
use crate::units::to_micros;

/// The 99th percentile of the start delay, in microseconds, up to which the generator counts as an open loop.
const P99_START_DELAY_US: u64 = 10_000;
/// The largest start delay up to which the generator counts as an open loop.
pub const MAX_START_DELAY: Duration = Duration::from_millis(250);

/// Counts and latencies of a set of connections, or of requests where connections are kept. Its size does not depend on
/// their number.
#[derive(Clone)]
pub struct Summary {
    /// The number of all connections.
    pub connections: u64,
    /// Served, including the slow ones.
    pub ok: u64,
    /// Served, but more than 900 ms after the start: a packet was lost on the way.
    pub slow: u64,
    /// Served, but only after the SYN was sent more than once.
    pub syn_resent: u64,
    /// Served or failed. The kernel does not tell whether the SYN was sent more than once.
    pub syn_unknown: u64,
    /// Segments sent more than once, including SYNs.
    pub segments_resent: u64,
    /// Refused.
    pub refused: u64,
    /// Reset before the client saw the connection established.
    pub reset_before_connect: u64,
    /// Reset once established.
    pub reset_after_connect: u64,
    /// Closed without a byte.
    pub empty: u64,
    /// Not finished within the timeout.
    pub timeout: u64,
    /// All other failures, by their text.
    pub other: BTreeMap<String, u64>,
    /// Failures of the client's machine, by their text: it had no port, descriptor, memory or free connection.
    pub local: BTreeMap<String, u64>,
    /// The latency of each served connection in microseconds, from the time at which it was due to its end.
    pub latency: Histogram<u64>,
    /// The delay of each start in microseconds, for served and failed connections.
    pub lag: Histogram<u64>,
}

impl Summary {
    /// Summarises these outcomes.
    pub fn from_outcomes<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Summary {
        let mut summary = Summary::default();
        for outcome in outcomes {
            summary.add(outcome);
        }
        summary
    }

    /// Adds one outcome.
    pub fn add(&mut self, outcome: &Outcome) {
        self.connections += 1;
        self.lag.saturating_record(to_micros(outcome.lag));
        self.slow += u64::from(outcome.is_slow());
        self.syn_resent += u64::from(outcome.is_served_after_resent_syn());
        self.syn_unknown += u64::from(outcome.syn_resent.is_none());
        self.segments_resent += u64::from(outcome.segments_resent.unwrap_or(0));
        match outcome.result {
            Ok(()) => {
                self.ok += 1;
                self.latency.saturating_record(to_micros(outcome.latency));
            }
            Err(Failure::Refused) => self.refused += 1,
            Err(Failure::ResetBeforeConnect) => self.reset_before_connect += 1,
            Err(Failure::ResetAfterConnect) => self.reset_after_connect += 1,
            Err(Failure::Empty) => self.empty += 1,
            Err(Failure::Timeout) => self.timeout += 1,
            Err(local @ (Failure::Local(_) | Failure::NoFreeConnection)) => {
                *self.local.entry(local.to_string()).or_default() += 1;
            }
            Err(other) => *self.other.entry(other.to_string()).or_default() += 1,
        }
    }

    /// The number of connections that were not served.
    pub fn failed(&self) -> u64 {
        self.connections - self.ok
    }

    /// The number of resets, before and after the connection was established.
    pub fn reset(&self) -> u64 {
        self.reset_before_connect + self.reset_after_connect
    }

    /// Whether the generator started its connections when they were due. Where it did not, the latencies measure the
    /// generator and not the server, and the rate was lower than asked for.
    pub fn kept_schedule(&self) -> bool {
        kept_schedule(&self.lag)
    }
}

/// Whether a load with these start delays, in microseconds, still is an open loop.
pub(crate) fn kept_schedule(lag: &Histogram<u64>) -> bool {
    lag.value_at_quantile(0.99) <= P99_START_DELAY_US && u128::from(lag.max()) <= MAX_START_DELAY.as_micros()
}

/// A histogram of microseconds up to ten minutes, exact to two digits. It takes 16 KiB.
pub(crate) fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 2).expect("constant bounds")
}

impl Default for Summary {
    fn default() -> Summary {
        Summary {
            connections: 0,
            ok: 0,
            slow: 0,
            syn_resent: 0,
            syn_unknown: 0,
            segments_resent: 0,
            refused: 0,
            reset_before_connect: 0,
            reset_after_connect: 0,
            empty: 0,
            timeout: 0,
            other: BTreeMap::new(),
            local: BTreeMap::new(),
            latency: latency_histogram(),
            lag: latency_histogram(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} connections, {} failed", self.connections, self.failed())?;
        let named = [
            ("refused", self.refused),
            ("reset before connect", self.reset_before_connect),
            ("reset after connect", self.reset_after_connect),
            ("empty", self.empty),
            ("timed out", self.timeout),
            ("slow", self.slow),
            ("with a SYN sent again", self.syn_resent),
        ];
        for (name, count) in named.into_iter().filter(|(_, count)| *count > 0) {
            write!(out, ", {count} {name}")?;
        }
        for (text, count) in self.other.iter().chain(&self.local) {
            write!(out, ", {count} {text}")?;
        }
        let milliseconds = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1000.0;
        write!(out, "; p50 {:.2} p99 {:.2} p99.9 {:.2} ", milliseconds(0.5), milliseconds(0.99), milliseconds(0.999))?;
        write!(out, "max {:.2} ms", self.latency.max() as f64 / 1000.0)
    }
}

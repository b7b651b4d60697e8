use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::outcome::{Failure, Outcome};

/// Later than this, in microseconds, and the generator was not the open loop that it claims to be.
const LATE_P99: u64 = 10_000;
/// The same for the latest start of all.
pub const LATE_MAX: Duration = Duration::from_millis(250);

/// Counts and latencies of some connections. It has the same size for ten connections and for ten million.
#[derive(Clone)]
pub struct Summary {
    /// How many.
    pub connections: u64,
    /// Served, the slow ones included.
    pub ok: u64,
    /// Served, but slower than 900 ms from the start: a SYN was lost on the way.
    pub slow: u64,
    /// Served, but only after their SYN was sent more than once.
    pub syn_resent: u64,
    /// Of which it is unknown whether their SYN was sent more than once, whatever became of them.
    pub syn_unknown: u64,
    /// Segments sent more than once, SYNs among them.
    pub segments_resent: u64,
    /// Refused.
    pub refused: u64,
    /// Reset before they were seen to be established.
    pub reset_before_connect: u64,
    /// Reset once established.
    pub reset_after_connect: u64,
    /// Closed without a byte.
    pub empty: u64,
    /// Not finished in time.
    pub timeout: u64,
    /// Everything else, by its text.
    pub other: BTreeMap<String, u64>,
    /// Those that this machine had no port, descriptor, memory or free connection for, by their text.
    pub own: BTreeMap<String, u64>,
    /// Microseconds from when it was due to its end, of those served.
    pub latency: Histogram<u64>,
    /// Microseconds by which starts were late.
    pub lag: Histogram<u64>,
}

impl Summary {
    /// Of these.
    pub fn of<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Summary {
        let mut summary = Summary::default();
        for outcome in outcomes {
            summary.add(outcome);
        }
        summary
    }

    /// One more.
    pub fn add(&mut self, outcome: &Outcome) {
        self.connections += 1;
        self.lag.saturating_record(micros(outcome.lag));
        self.slow += u64::from(outcome.is_slow());
        self.syn_resent += u64::from(outcome.needed_another_syn());
        self.syn_unknown += u64::from(outcome.syn_resent.is_none());
        self.segments_resent += u64::from(outcome.segments_resent.unwrap_or(0));
        match outcome.result {
            Ok(()) => {
                self.ok += 1;
                self.latency.saturating_record(micros(outcome.latency));
            }
            Err(Failure::Refused) => self.refused += 1,
            Err(Failure::ResetBeforeConnect) => self.reset_before_connect += 1,
            Err(Failure::ResetAfterConnect) => self.reset_after_connect += 1,
            Err(Failure::Empty) => self.empty += 1,
            Err(Failure::Timeout) => self.timeout += 1,
            Err(own @ (Failure::Own(_) | Failure::NoConnection)) => *self.own.entry(own.to_string()).or_default() += 1,
            Err(other) => *self.other.entry(other.to_string()).or_default() += 1,
        }
    }

    /// All that were not served.
    pub fn failed(&self) -> u64 {
        self.connections - self.ok
    }

    /// Both kinds of reset.
    pub fn reset(&self) -> u64 {
        self.reset_before_connect + self.reset_after_connect
    }

    /// Whether the generator started its connections when they were due. Where it did not, latencies are its own and
    /// the rate was not what it says.
    pub fn kept_schedule(&self) -> bool {
        kept_schedule(&self.lag)
    }
}

/// Whether starts that were so much too late, in microseconds, still are those of an open loop.
pub(crate) fn kept_schedule(lag: &Histogram<u64>) -> bool {
    lag.value_at_quantile(0.99) <= LATE_P99 && u128::from(lag.max()) <= LATE_MAX.as_micros()
}

/// Microseconds, in two digits up to ten minutes: 16 KiB each.
pub(crate) fn histogram() -> Histogram<u64> {
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
            own: BTreeMap::new(),
            latency: histogram(),
            lag: histogram(),
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
        for (text, count) in self.other.iter().chain(&self.own) {
            write!(out, ", {count} {text}")?;
        }
        let milliseconds = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1000.0;
        write!(out, "; p50 {:.2} p99 {:.2} p99.9 {:.2} ", milliseconds(0.5), milliseconds(0.99), milliseconds(0.999))?;
        write!(out, "max {:.2} ms", self.latency.max() as f64 / 1000.0)
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

//! Collects the outcome of every connection of a load, and sums them up.

use std::fmt;
use std::time::{Duration, Instant};

use reloader::load::{FinishedLoad, Outcome, Summary};

/// A span of time in which something was done to the server.
#[derive(Debug, Clone)]
pub struct Window {
    /// What was done to the server: `reload`, `kill`.
    pub label: String,
    /// The beginning of the span.
    pub from: Instant,
    /// The end of the span.
    pub to: Instant,
}

impl Window {
    fn overlaps(&self, outcome: &Outcome) -> bool {
        outcome.scheduled <= self.to && outcome.scheduled + outcome.latency >= self.from
    }
}

/// Every connection of a load, in the order in which they ended.
pub struct Outcomes {
    /// The connections.
    pub all: Vec<Outcome>,
    /// The rate that was asked for, in new connections per second.
    pub rate: u32,
    /// The time from the first start to the last end.
    pub wall: Duration,
    /// The processor time that the generator itself took.
    pub cpu: Duration,
    /// The number of connections. With `keep_alive` it is smaller than the number of outcomes.
    pub connections: u64,
    /// Kept connections that the server closed between two requests.
    pub closed_between: u64,
}

impl From<FinishedLoad<Vec<Outcome>>> for Outcomes {
    fn from(ended: FinishedLoad<Vec<Outcome>>) -> Outcomes {
        let FinishedLoad { sink, rate, wall, cpu, connections, closed_between, .. } = ended;
        Outcomes { all: sink, rate, wall, cpu, connections, closed_between }
    }
}

impl Outcomes {
    /// The summary of all connections.
    pub fn summary(&self) -> Summary {
        Summary::from_outcomes(&self.all)
    }

    /// The summary of the connections that were due within the window.
    pub fn within(&self, window: &Window) -> Summary {
        let due = |outcome: &&Outcome| (window.from..=window.to).contains(&outcome.scheduled);
        Summary::from_outcomes(self.all.iter().filter(due))
    }

    /// A summary for each label, and one for the rest, named `between`. A connection counts for the first window that
    /// its life overlaps: one that was killed with its server is not counted as a loss of quiet times.
    pub fn by_window(&self, windows: &[Window]) -> Vec<(String, Summary)> {
        let mut groups: Vec<(String, Vec<&Outcome>)> = vec![("between".into(), Vec::new())];
        for outcome in &self.all {
            let label =
                windows.iter().find(|window| window.overlaps(outcome)).map_or("between", |window| &window.label);
            match groups.iter_mut().find(|(known, _)| known == label) {
                Some((_, group)) => group.push(outcome),
                None => groups.push((label.into(), vec![outcome])),
            }
        }
        groups.into_iter().map(|(label, group)| (label, Summary::from_outcomes(group))).collect()
    }

    /// The connections that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.all.iter().filter(|outcome| outcome.result.is_err())
    }

    /// Whether the generator started its connections when they were due. If not, latencies are its own, and the rate
    /// was lower than `rate`.
    pub fn kept_schedule(&self) -> bool {
        self.summary().kept_schedule()
    }

    /// Panics with the figures unless every connection was served.
    pub fn assert_lossless(&self) {
        let summary = self.summary();
        assert!(summary.connections > 0, "no connection was made");
        assert!(summary.failed() == 0, "connections were lost: {self}");
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let summary = self.summary();
        let share = 100.0 * self.cpu.as_secs_f64() / self.wall.as_secs_f64().max(f64::EPSILON);
        write!(out, "{}/s for {:.1} s, {share:.0} % of a core: {summary}", self.rate, self.wall.as_secs_f64())?;
        if !summary.kept_schedule() {
            let (p99, max) = (summary.lag.value_at_quantile(0.99), summary.lag.max());
            write!(out, "; THE GENERATOR FELL BEHIND ITS SCHEDULE: p99 {p99} us, at most {max} us late")?;
        }
        Ok(())
    }
}

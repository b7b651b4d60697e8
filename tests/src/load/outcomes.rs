use std::fmt;
use std::time::{Duration, Instant};

use reloader::load::{FinishedLoad, Outcome, Summary};

/// A span of time in which something was done to the server.
#[derive(Debug, Clone)]
pub struct Window {
    /// What was done: `reload`, `kill`.
    pub label: String,
    /// Its beginning.
    pub from: Instant,
    /// Its end.
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
    /// New connections per second that were asked for.
    pub rate: u32,
    /// From the first start to the last end.
    pub wall: Duration,
    /// Processor time that the generator itself took.
    pub cpu: Duration,
    /// Connections made: with `keep_alive` fewer than there are outcomes.
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
    /// All connections together.
    pub fn summary(&self) -> Summary {
        Summary::from_outcomes(&self.all)
    }

    /// Those that were due within the window.
    pub fn within(&self, window: &Window) -> Summary {
        let due = |outcome: &&Outcome| (window.from..=window.to).contains(&outcome.scheduled);
        Summary::from_outcomes(self.all.iter().filter(due))
    }

    /// A summary per label and one for the rest, named `between`. A connection counts for the first window that its
    /// life overlaps, so that one killed with its server is not called an accident of quiet times.
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

    /// Those that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.all.iter().filter(|outcome| outcome.result.is_err())
    }

    /// Whether the generator started its connections when they were due. Where it did not, latencies are its own and
    /// the rate was not what it says.
    pub fn kept_schedule(&self) -> bool {
        self.summary().kept_schedule()
    }

    /// Panics, with the figures, unless every connection was served.
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

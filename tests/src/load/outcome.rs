use std::fmt;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::summary::Summary;

/// A lost SYN costs its sender a second.
pub(super) const SLOW: Duration = Duration::from_millis(900);

/// Later than this, in microseconds, and the generator was not the open loop that it claims to be.
const LATE_P99: u64 = 10_000;
const LATE_MAX: u64 = 250_000;

/// How a connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody listens there.
    Refused,
    /// Reset before the connection was seen to be established.
    ResetBeforeConnect,
    /// Reset once established, even in the middle of a reply.
    ResetAfterConnect,
    /// Closed in good order, without a byte.
    Empty,
    /// Not finished in time.
    Timeout,
    /// A reply in HTTP that is not 200.
    Status(u16),
    /// Another error, by number.
    Other(i32),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused => out.write_str("refused"),
            Failure::ResetBeforeConnect => out.write_str("reset before connect"),
            Failure::ResetAfterConnect => out.write_str("reset after connect"),
            Failure::Empty => out.write_str("empty reply"),
            Failure::Timeout => out.write_str("timeout"),
            Failure::Status(status) => write!(out, "HTTP {status}"),
            Failure::Other(errno) => write!(out, "{}", Errno::from_raw(*errno)),
        }
    }
}

/// What became of one connection.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// When it was due.
    pub scheduled: Instant,
    /// How much later it was started: the generator's own fault.
    pub lag: Duration,
    /// From when it was due until its end.
    pub latency: Duration,
    /// Which of the load's targets.
    pub target: u32,
    /// Served, or why not.
    pub result: Result<(), Failure>,
}

impl Outcome {
    fn overlaps(&self, window: &Window) -> bool {
        self.scheduled <= window.to && self.scheduled + self.latency >= window.from
    }
}

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
}

impl Outcomes {
    /// All connections together.
    pub fn summary(&self) -> Summary {
        Summary::of(&self.all)
    }

    /// Those that were due within the window.
    pub fn within(&self, window: &Window) -> Summary {
        let due = |outcome: &&Outcome| (window.from..=window.to).contains(&outcome.scheduled);
        Summary::of(self.all.iter().filter(due))
    }

    /// A summary per label and one for the rest, named `between`. A connection counts for the first window that its
    /// life overlaps, so that one killed with its server is not called an accident of quiet times.
    pub fn by_window(&self, windows: &[Window]) -> Vec<(String, Summary)> {
        let mut groups: Vec<(String, Vec<&Outcome>)> = vec![("between".into(), Vec::new())];
        for outcome in &self.all {
            let label =
                windows.iter().find(|window| outcome.overlaps(window)).map_or("between", |window| &window.label);
            match groups.iter_mut().find(|(known, _)| known == label) {
                Some((_, group)) => group.push(outcome),
                None => groups.push((label.into(), vec![outcome])),
            }
        }
        groups.into_iter().map(|(label, group)| (label, Summary::of(group))).collect()
    }

    /// Those that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.all.iter().filter(|outcome| outcome.result.is_err())
    }

    /// Whether the generator started its connections when they were due. Where it did not, latencies are its own and
    /// the rate was not what it says.
    pub fn kept_schedule(&self) -> bool {
        let lag = self.summary().lag;
        lag.value_at_quantile(0.99) <= LATE_P99 && lag.max() <= LATE_MAX
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
        if !self.kept_schedule() {
            let (p99, max) = (summary.lag.value_at_quantile(0.99), summary.lag.max());
            write!(out, "; THE GENERATOR FELL BEHIND ITS SCHEDULE: p99 {p99} us, at most {max} us late")?;
        }
        Ok(())
    }
}

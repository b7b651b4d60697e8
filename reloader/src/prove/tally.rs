//! What is kept of a load: counts, histograms, a timeline, and the first losses one by one. A million connections take as
//! much room as a thousand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::timeline::Timeline;
use crate::load::{Failure, Outcome, Sink, Summary, latency_histogram};
use crate::units::to_micros;

/// Losses beyond these are counted, but belong to no reload: where so much is lost it does not matter which.
const MOST_LOSSES: usize = 20_000;

/// Kinds of loss, as the verdict names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nobody listened.
    Refused,
    /// Reset, before or after it was established.
    Reset,
    /// Closed without a byte; with kept connections: closed under a request.
    Empty,
    /// Closed in the middle of a reply.
    CutShort,
    /// Not finished in time.
    TimedOut,
    /// A reply that says no, or that is none.
    BadStatus,
    /// TLS failed.
    Tls,
    /// Everything else.
    Other,
}

impl Class {
    /// All of them, in the order in which they are told.
    pub const ALL: [Class; 8] = [
        Class::Refused,
        Class::Reset,
        Class::Empty,
        Class::CutShort,
        Class::TimedOut,
        Class::BadStatus,
        Class::Tls,
        Class::Other,
    ];

    /// Of a failure; `None` for one that is this machine's own.
    pub fn of(failure: Failure) -> Option<Class> {
        Some(match failure {
            Failure::Refused => Class::Refused,
            Failure::ResetBeforeConnect | Failure::ResetAfterConnect => Class::Reset,
            Failure::Empty => Class::Empty,
            Failure::CutShort => Class::CutShort,
            Failure::Timeout => Class::TimedOut,
            Failure::Status(_) | Failure::NotHttp => Class::BadStatus,
            Failure::Tls(_) => Class::Tls,
            Failure::Other(_) => Class::Other,
            Failure::Local(_) | Failure::NoFreeConnection => return None,
        })
    }

    /// In a sentence.
    pub fn words(self) -> &'static str {
        match self {
            Class::Refused => "refused",
            Class::Reset => "reset",
            Class::Empty => "closed without a reply",
            Class::CutShort => "cut short",
            Class::TimedOut => "timed out",
            Class::BadStatus => "answered badly",
            Class::Tls => "failed in TLS",
            Class::Other => "failed otherwise",
        }
    }
}

/// One connection that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// When it was due, from the load's begin.
    pub due: Duration,
    /// When it was over.
    pub over: Duration,
    /// How.
    pub class: Class,
}

/// When reloads were under way: told by whoever reloads, asked for each connection.
#[derive(Clone, Default)]
pub struct Windows(Arc<Mutex<Vec<Window>>>);

struct Window {
    begin: Instant,
    /// `None`: not over.
    end: Option<Instant>,
}

impl Windows {
    /// A reload begins now.
    pub fn begin(&self) -> Instant {
        self.with(|windows| {
            let now = Instant::now();
            windows.push(Window { begin: now, end: None });
            now
        })
    }

    /// The one that was begun last is over.
    pub fn end(&self) {
        self.with(|windows| {
            if let Some(window) = windows.last_mut() {
                window.end = Some(Instant::now());
            }
        });
    }

    fn contain(&self, due: Instant) -> bool {
        self.with(|windows| {
            let begun = windows.partition_point(|window| window.begin <= due);
            windows[..begun].last().is_some_and(|window| window.end.is_none_or(|end| due <= end))
        })
    }

    fn with<T>(&self, what: impl FnOnce(&mut Vec<Window>) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See the module.
#[derive(Clone)]
pub struct Tally {
    begin: Instant,
    windows: Windows,
    /// Microseconds by which starts were late that were due while a reload was under way.
    pub lag_in_reloads: Histogram<u64>,
    /// Everything together.
    pub total: Summary,
    /// Latency over time.
    pub timeline: Timeline,
    /// The first losses, in the order in which they ended.
    pub losses: Vec<Loss>,
    /// How many for what reason.
    pub reasons: BTreeMap<Failure, u64>,
    /// Served, but slow or after a SYN was sent again.
    pub late: u64,
}

impl Tally {
    /// Nothing yet.
    pub fn new(windows: Windows) -> Tally {
        Tally {
            begin: Instant::now(),
            windows,
            lag_in_reloads: latency_histogram(),
            total: Summary::default(),
            timeline: Timeline::new(),
            losses: Vec::new(),
            reasons: BTreeMap::new(),
            late: 0,
        }
    }

    /// How many were lost so.
    pub fn count(&self, class: Class) -> u64 {
        self.reasons.iter().filter(|(failure, _)| Class::of(**failure) == Some(class)).map(|(_, count)| count).sum()
    }

    /// How many this machine could not carry.
    pub fn own(&self) -> u64 {
        self.total.local.values().sum()
    }

    /// How many the service served or lost.
    pub fn tried(&self) -> u64 {
        self.total.connections - self.own()
    }

    /// How many were lost by the service. What this machine could not carry is not among them.
    pub fn lost(&self) -> u64 {
        Class::ALL.iter().map(|class| self.count(*class)).sum()
    }
}

impl Sink for Tally {
    fn begin(&mut self, now: Instant) {
        self.begin = now;
    }

    fn record(&mut self, outcome: &Outcome) {
        self.total.add(outcome);
        if self.windows.contain(outcome.scheduled) {
            self.lag_in_reloads.saturating_record(to_micros(outcome.lag));
        }
        let due = outcome.scheduled.saturating_duration_since(self.begin);
        match outcome.result {
            Ok(()) => {
                let is_late = outcome.is_slow() || outcome.is_served_after_resent_syn();
                self.late += u64::from(is_late);
                self.timeline.served(due, outcome.latency, is_late);
            }
            Err(failure) => {
                *self.reasons.entry(failure).or_default() += 1;
                let Some(class) = Class::of(failure) else { return };
                self.timeline.failed(due);
                if self.losses.len() < MOST_LOSSES {
                    self.losses.push(Loss { due, over: due + outcome.latency, class });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(begin: Instant, number: u64, result: Result<(), Failure>) -> Outcome {
        Outcome {
            scheduled: begin + Duration::from_millis(number),
            lag: Duration::ZERO,
            latency: Duration::from_millis(2),
            target: 0,
            syn_resent: Some(number == 7),
            segments_resent: Some(0),
            result,
        }
    }

    #[test]
    fn each_outcome_is_counted_once() {
        let mut tally = Tally::new(Windows::default());
        let begin = Instant::now();
        tally.begin(begin);
        for number in 0..100 {
            tally.record(&outcome(begin, number, Ok(())));
        }
        for failure in [Failure::Refused, Failure::ResetBeforeConnect, Failure::ResetAfterConnect, Failure::Local(24)] {
            tally.record(&outcome(begin, 200, Err(failure)));
        }
        assert_eq!((tally.total.connections, tally.total.ok, tally.lost(), tally.late), (104, 100, 3, 1));
        assert_eq!((tally.own(), tally.tried()), (1, 103));
        let drawn: u64 = tally.timeline.points(1).iter().map(|point| point.failed).sum();
        assert_eq!(drawn, 3, "what this machine could not carry is no loss in the chart");
        assert_eq!((tally.count(Class::Refused), tally.count(Class::Reset), tally.count(Class::Empty)), (1, 2, 0));
        let first = Loss { due: Duration::from_millis(200), over: Duration::from_millis(202), class: Class::Refused };
        assert_eq!((tally.losses.len(), tally.losses[0]), (3, first));
    }

    #[test]
    fn starts_that_were_due_in_reloads_are_looked_at_by_themselves() {
        let windows = Windows::default();
        let mut tally = Tally::new(windows.clone());
        let at = |due, lag| Outcome { scheduled: due, lag, ..outcome(due, 0, Ok(())) };
        tally.record(&at(Instant::now(), Duration::from_millis(30)));
        let within = windows.begin();
        tally.record(&at(within, Duration::from_millis(20)));
        windows.end();
        // Due before its end, though started after it.
        tally.record(&at(within, Duration::from_millis(40)));
        tally.record(&at(Instant::now() + Duration::from_secs(1), Duration::from_millis(50)));
        assert_eq!((tally.lag_in_reloads.len(), tally.total.lag.len()), (2, 4));
        assert!((39_000..41_000).contains(&tally.lag_in_reloads.max()));
    }

    #[test]
    fn losses_without_end_take_bounded_room() {
        let mut tally = Tally::new(Windows::default());
        let begin = Instant::now();
        for number in 0..50_000 {
            tally.record(&outcome(begin, number, Err(Failure::Refused)));
        }
        assert_eq!((tally.losses.len(), tally.lost()), (MOST_LOSSES, 50_000));
    }
}

//! Counts the outcomes of a load: totals, histograms, a timeline, and the first losses one by one. Its size does not depend on
//! the number of connections.

use std::collections::BTreeMap;
use std::time::Instant;

use hdrhistogram::Histogram;

use super::loss::{Loss, LossClass};
use super::timeline::Timeline;
use super::windows::ReloadWindows;
use crate::load::{Failure, Outcome, Sink, Summary, latency_histogram};
use crate::units::to_micros;

/// Further losses are counted, but assigned to no reload: where so much is lost it does not matter which.
const MAX_KEPT_LOSSES: usize = 20_000;

/// The outcomes of a load.
#[derive(Clone)]
pub struct Tally {
    begin: Instant,
    windows: ReloadWindows,
    /// Start delays, in microseconds, of the connections that were due while a reload was under way.
    pub lag_in_reloads: Histogram<u64>,
    /// Counts and latencies of the whole load.
    pub total: Summary,
    pub(super) timeline: Timeline,
    /// The first 20,000 losses, in the order in which they ended.
    pub(super) losses: Vec<Loss>,
    /// The number of failures of each kind, including those of the client's machine.
    pub reasons: BTreeMap<Failure, u64>,
    /// Served, but slow, or only after the SYN was sent again.
    pub late: u64,
}

impl Tally {
    /// An empty tally. The windows tell which connections were due while a reload was under way.
    pub(super) fn new(windows: ReloadWindows) -> Tally {
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

    /// The number of losses of this class.
    pub(super) fn count(&self, class: LossClass) -> u64 {
        let of_class = |failure: &Failure| LossClass::from_failure(*failure) == Some(class);
        self.reasons.iter().filter(|(failure, _)| of_class(failure)).map(|(_, count)| count).sum()
    }

    /// The number that failed on the client's machine. They are neither served nor lost.
    pub fn not_carried(&self) -> u64 {
        self.total.local.values().sum()
    }

    /// The number that the service served or lost.
    pub fn tried(&self) -> u64 {
        self.total.connections - self.not_carried()
    }

    /// The number that the service lost.
    pub fn lost(&self) -> u64 {
        LossClass::ALL.iter().map(|class| self.count(*class)).sum()
    }
}

impl Sink for Tally {
    fn begin(&mut self, begin: Instant) {
        self.begin = begin;
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
                self.timeline.add_served(due, outcome.latency, is_late);
            }
            Err(failure) => {
                *self.reasons.entry(failure).or_default() += 1;
                let Some(class) = LossClass::from_failure(failure) else { return };
                self.timeline.add_failed(due);
                if self.losses.len() < MAX_KEPT_LOSSES {
                    self.losses.push(Loss { due, end: due + outcome.latency, class });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let mut tally = Tally::new(ReloadWindows::default());
        let begin = Instant::now();
        tally.begin(begin);
        for number in 0..100 {
            tally.record(&outcome(begin, number, Ok(())));
        }
        for failure in [Failure::Refused, Failure::ResetBeforeConnect, Failure::ResetAfterConnect, Failure::Local(24)] {
            tally.record(&outcome(begin, 200, Err(failure)));
        }
        assert_eq!((tally.total.connections, tally.total.ok, tally.lost(), tally.late), (104, 100, 3, 1));
        assert_eq!((tally.not_carried(), tally.tried()), (1, 103));
        let drawn: u64 = tally.timeline.points(1).iter().map(|point| point.failed).sum();
        assert_eq!(drawn, 3, "a failure of this machine is not a loss in the chart");
        let counts = [LossClass::Refused, LossClass::Reset, LossClass::Empty].map(|class| tally.count(class));
        assert_eq!(counts, [1, 2, 0]);
        let (due, end) = (Duration::from_millis(200), Duration::from_millis(202));
        assert_eq!(tally.losses.len(), 3);
        assert_eq!(tally.losses[0], Loss { due, end, class: LossClass::Refused });
    }

    #[test]
    fn starts_that_were_due_in_reloads_have_a_histogram_of_their_own() {
        let windows = ReloadWindows::default();
        let mut tally = Tally::new(windows.clone());
        let at = |due, lag| Outcome { scheduled: due, lag, ..outcome(due, 0, Ok(())) };
        tally.record(&at(Instant::now(), Duration::from_millis(30)));
        let within = windows.begin();
        tally.record(&at(within, Duration::from_millis(20)));
        windows.end();
        // Due before the end of the reload, and started after it.
        tally.record(&at(within, Duration::from_millis(40)));
        tally.record(&at(Instant::now() + Duration::from_secs(1), Duration::from_millis(50)));
        assert_eq!((tally.lag_in_reloads.len(), tally.total.lag.len()), (2, 4));
        assert!((39_000..41_000).contains(&tally.lag_in_reloads.max()));
    }

    #[test]
    fn number_of_kept_losses_is_bounded() {
        let mut tally = Tally::new(ReloadWindows::default());
        let begin = Instant::now();
        for number in 0..50_000 {
            tally.record(&outcome(begin, number, Err(Failure::Refused)));
        }
        assert_eq!((tally.losses.len(), tally.lost()), (MAX_KEPT_LOSSES, 50_000));
    }
}

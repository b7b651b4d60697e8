//! Sums up the results of one way of reloading under load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::around::{Moment, bucket, buckets};
use crate::load::{Outcomes, Summary, Window};

/// The results of one way of reloading, under one share of the load or under several.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Figures {
    /// Connections that were made.
    pub connections: u64,
    /// Connections that were not served, by what happened to them.
    pub lost: BTreeMap<String, u64>,
    /// Connections for which this machine had no port, descriptor or memory. They say nothing about the server.
    pub own_failures: u64,
    /// Connections that were served after more than 900 ms.
    pub late: u64,
    /// Connections that were served after their SYN was sent more than once.
    pub syn_resent: u64,
    /// New connections per second.
    pub rate: u32,
    /// Processor time of HAProxy and of all that reloads it, in microseconds.
    pub cpu_us: u64,
    /// How long each reload took, from request to answer, in microseconds.
    pub reloads_us: Vec<u64>,
    /// With reloader: reloads whose receipts say `proven` and name the expected rung.
    pub proven: u64,
    /// Latencies of served connections, from the time at which they were due: pairs of microseconds and count.
    pub latency: Vec<(u64, u64)>,
    /// How late connections were started: pairs of microseconds and count.
    pub lag: Vec<(u64, u64)>,
    /// The same for connections that were due during a reload. Without it a reload that takes the processor from the
    /// generator would go unnoticed.
    pub lag_in_reloads: Vec<(u64, u64)>,
    /// Connections around the beginnings of the reloads.
    pub around: Vec<Moment>,
}

impl Figures {
    /// The results of a load that began at `began`, with its reloads in order.
    pub(super) fn from_outcomes(outcomes: &Outcomes, reloads: &[Window], began: Instant) -> Figures {
        let summary = outcomes.summary();
        let took = |reload: &Window| micros(reload.to - reload.from);
        Figures {
            connections: summary.connections,
            lost: lost(&summary),
            own_failures: summary.local.values().sum(),
            late: summary.slow,
            syn_resent: summary.syn_resent,
            rate: outcomes.rate,
            cpu_us: 0,
            reloads_us: reloads.iter().map(took).collect(),
            proven: 0,
            latency: recorded(&summary.latency),
            lag: recorded(&summary.lag),
            lag_in_reloads: lag_in_reloads(outcomes, reloads),
            around: around(outcomes, reloads, began),
        }
    }

    /// Adds the results of another share.
    pub fn add(&mut self, other: &Figures) {
        self.connections += other.connections;
        other.lost.iter().for_each(|(kind, count)| *self.lost.entry(kind.clone()).or_default() += count);
        self.own_failures += other.own_failures;
        self.late += other.late;
        self.syn_resent += other.syn_resent;
        self.rate = other.rate;
        self.cpu_us += other.cpu_us;
        self.reloads_us.extend(&other.reloads_us);
        self.proven += other.proven;
        merge(&mut self.latency, &other.latency);
        merge(&mut self.lag, &other.lag);
        merge(&mut self.lag_in_reloads, &other.lag_in_reloads);
        self.around.resize(self.around.len().max(other.around.len()), Moment::default());
        self.around.iter_mut().zip(&other.around).for_each(|(moment, other)| moment.add(other));
    }

    /// The number of lost connections.
    pub fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    /// The latency that this share of the served connections did not exceed, in microseconds. Share 1 gives the
    /// slowest.
    pub fn latency_at(&self, share: f64) -> u64 {
        quantile(&self.latency, share)
    }

    /// The same for the lateness of starts: the greater value of all connections and of those during reloads.
    pub fn lag_at(&self, share: f64) -> u64 {
        quantile(&self.lag, share).max(quantile(&self.lag_in_reloads, share))
    }

    /// The same for the duration of reloads.
    pub fn reload_at(&self, share: f64) -> u64 {
        let mut times: Vec<(u64, u64)> = self.reloads_us.iter().map(|micros| (*micros, 1)).collect();
        times.sort_unstable();
        quantile(&times, share)
    }
}

fn lost(summary: &Summary) -> BTreeMap<String, u64> {
    let named = [
        ("refused", summary.refused),
        ("reset", summary.reset()),
        ("empty", summary.empty),
        ("timed out", summary.timeout),
    ];
    let named = named.into_iter().map(|(kind, count)| (kind.to_owned(), count));
    named.chain(summary.other.clone()).filter(|(_, count)| *count > 0).collect()
}

fn recorded(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    // The last step ends at the histogram's maximum, which can be below the upper edge of its bucket.
    histogram
        .iter_recorded()
        .map(|step| (step.value_iterated_to().min(histogram.max()), step.count_at_value()))
        .collect()
}

fn lag_in_reloads(outcomes: &Outcomes, reloads: &[Window]) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    reloads.iter().for_each(|reload| merge(&mut all, &recorded(&outcomes.within(reload).lag)));
    all
}

fn around(outcomes: &Outcomes, reloads: &[Window], began: Instant) -> Vec<Moment> {
    let since = |moment: Instant| moment.saturating_duration_since(began);
    let reloads: Vec<Duration> = reloads.iter().map(|reload| since(reload.from)).collect();
    let mut moments = vec![Moment::default(); buckets()];
    for outcome in &outcomes.all {
        let Some(index) = bucket(since(outcome.scheduled), &reloads) else { continue };
        let slowest_us = if outcome.result.is_ok() { micros(outcome.latency) } else { 0 };
        moments[index].add(&Moment { connections: 1, lost: u64::from(outcome.result.is_err()), slowest_us });
    }
    moments
}

fn merge(into: &mut Vec<(u64, u64)>, from: &[(u64, u64)]) {
    let mut all: BTreeMap<u64, u64> = into.iter().copied().collect();
    from.iter().for_each(|(value, count)| *all.entry(*value).or_default() += count);
    *into = all.into_iter().collect();
}

/// The value that this share of the values did not exceed. The values are sorted, each with its count.
fn quantile(values: &[(u64, u64)], share: f64) -> u64 {
    let total: u64 = values.iter().map(|(_, count)| count).sum();
    let wanted = ((total as f64 * share).ceil() as u64).clamp(1, total.max(1));
    let mut seen = 0;
    for (value, count) in values {
        seen += count;
        if seen >= wanted {
            return *value;
        }
    }
    0
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(latency: &[(u64, u64)], refused: u64) -> Figures {
        Figures {
            connections: latency.iter().map(|(_, count)| count).sum::<u64>() + refused,
            lost: [("refused".to_owned(), refused)].into(),
            latency: latency.to_vec(),
            reloads_us: vec![30, 10, 20],
            around: vec![Moment { connections: 2, lost: refused, slowest_us: 5 }],
            ..Figures::default()
        }
    }

    #[test]
    fn figures_of_several_shares_are_summed() {
        let mut all = Figures::default();
        all.add(&figures(&[(100, 98), (400, 1)], 1));
        all.add(&figures(&[(100, 1), (900, 2)], 2));
        assert_eq!((all.connections, all.lost()), (105, 3));
        assert_eq!(all.latency, [(100, 99), (400, 1), (900, 2)]);
        assert_eq!([0.5, 0.97, 0.98, 1.0].map(|share| all.latency_at(share)), [100, 100, 400, 900]);
        assert_eq!((all.reload_at(0.5), all.reload_at(1.0)), (20, 30));
        assert_eq!(all.around, [Moment { connections: 4, lost: 3, slowest_us: 5 }]);
        assert_eq!(Figures::default().latency_at(0.5), 0);
    }

    #[test]
    fn lag_is_reported_for_reloads_only() {
        let figures =
            Figures { lag: vec![(10, 10_000), (90, 9)], lag_in_reloads: vec![(20, 1), (90, 9)], ..Figures::default() };
        assert_eq!((figures.lag_at(0.5), figures.lag_at(0.99)), (90, 90));
    }

    #[test]
    fn figures_survive_a_round_trip_through_json() {
        let all = figures(&[(100, 98)], 1);
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Figures>(&text).unwrap(), all);
        assert!(text.contains("\"cpu-us\":0"), "{text}");
    }
}

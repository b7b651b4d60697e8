//! Records latency over time, in a bounded number of buckets. The size of the record does not depend on the length of
//! the load.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::units::to_micros;

/// When there are this many buckets, each two neighbours become one bucket.
const MAX_BUCKETS: usize = 480;
/// The first width of a bucket. It gives a load of a few seconds enough points for a curve.
const INITIAL_WIDTH: Duration = Duration::from_millis(20);

/// Counts and latencies of connections, in buckets of equal width. A connection belongs to the bucket in which it was
/// due.
#[derive(Clone)]
pub(super) struct Timeline {
    width: Duration,
    buckets: Vec<Bucket>,
}

#[derive(Clone)]
struct Bucket {
    connections: u64,
    failed: u64,
    late: u64,
    /// In microseconds, exact to one digit. A chart cannot show more.
    latency: Histogram<u32>,
    /// In microseconds.
    slowest: u64,
}

/// One point of a chart: one bucket, or several together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    /// The beginning of the point, from the start of the load.
    pub(super) from: Duration,
    /// Connections that were due in this point.
    pub(super) connections: u64,
    /// Connections that were due in this point and were lost.
    pub(super) failed: u64,
    /// Connections that were served late: slow, or after a SYN was sent again.
    pub(super) late: u64,
    /// The median latency of the served connections, in microseconds; `None` if none was served.
    pub(super) p50: Option<u64>,
    /// The 99th percentile, in microseconds.
    pub(super) p99: Option<u64>,
    /// The largest latency, in microseconds.
    pub(super) max: Option<u64>,
}

impl Timeline {
    /// An empty timeline.
    pub(super) fn new() -> Timeline {
        Timeline { width: INITIAL_WIDTH, buckets: Vec::new() }
    }

    /// Adds a connection that was due at `offset` from the start of the load and took `latency`.
    pub(super) fn add_served(&mut self, offset: Duration, latency: Duration, is_late: bool) {
        let bucket = self.bucket(offset);
        bucket.connections += 1;
        bucket.late += u64::from(is_late);
        bucket.latency.saturating_record(to_micros(latency));
        bucket.slowest = bucket.slowest.max(to_micros(latency));
    }

    /// Adds a connection that was due at `offset` and was lost.
    pub(super) fn add_failed(&mut self, offset: Duration) {
        let bucket = self.bucket(offset);
        bucket.connections += 1;
        bucket.failed += 1;
    }

    /// The length of a bucket.
    pub(super) fn width(&self) -> Duration {
        self.width
    }

    /// The points of a chart, in order, with this number of buckets in each. Points in which nothing was due are left out.
    pub(super) fn points(&self, buckets_per_point: usize) -> Vec<Point> {
        let buckets_per_point = buckets_per_point.max(1);
        let merged = self.buckets.chunks(buckets_per_point).map(|buckets| {
            let mut whole = buckets[0].clone();
            buckets[1..].iter().for_each(|bucket| whole.absorb(bucket));
            whole
        });
        let from = |index: usize| self.width * (index * buckets_per_point) as u32;
        let filled = merged.enumerate().filter(|(_, bucket)| bucket.connections > 0);
        filled.map(|(index, bucket)| bucket.point(from(index))).collect()
    }

    fn bucket(&mut self, offset: Duration) -> &mut Bucket {
        let mut index = self.index(offset);
        while index >= MAX_BUCKETS {
            self.merge_pairs();
            index = self.index(offset);
        }
        if index >= self.buckets.len() {
            self.buckets.resize_with(index + 1, Bucket::new);
        }
        &mut self.buckets[index]
    }

    fn index(&self, offset: Duration) -> usize {
        (offset.as_nanos() / self.width.as_nanos()) as usize
    }

    fn merge_pairs(&mut self) {
        self.width *= 2;
        let mut merged = Vec::with_capacity(MAX_BUCKETS);
        let mut buckets = std::mem::take(&mut self.buckets).into_iter();
        while let Some(mut bucket) = buckets.next() {
            if let Some(next) = buckets.next() {
                bucket.absorb(&next);
            }
            merged.push(bucket);
        }
        self.buckets = merged;
    }
}

impl Bucket {
    fn new() -> Bucket {
        let latency = Histogram::new_with_bounds(1, 600_000_000, 1).expect("constant bounds");
        Bucket { connections: 0, failed: 0, late: 0, latency, slowest: 0 }
    }

    fn absorb(&mut self, other: &Bucket) {
        self.connections += other.connections;
        self.failed += other.failed;
        self.late += other.late;
        self.slowest = self.slowest.max(other.slowest);
        self.latency += &other.latency;
    }

    fn point(&self, from: Duration) -> Point {
        let quantile =
            |share| (!self.latency.is_empty()).then(|| self.latency.value_at_quantile(share).min(self.slowest));
        let (p50, p99) = (quantile(0.5), quantile(0.99));
        let max = (!self.latency.is_empty()).then_some(self.slowest);
        Point { from, connections: self.connections, failed: self.failed, late: self.late, p50, p99, max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn connection_counts_in_the_bucket_in_which_it_was_due() {
        let mut timeline = Timeline::new();
        timeline.add_served(5 * MS, MS, false);
        timeline.add_served(6 * MS, 3 * MS, true);
        timeline.add_failed(45 * MS);
        let points = timeline.points(1);
        assert_eq!(points.len(), 2, "the empty bucket is left out");
        assert_eq!((points[0].connections, points[0].late, points[0].max), (2, 1, Some(3000)));
        assert_eq!((points[1].from, points[1].failed, points[1].p50), (40 * MS, 1, None));
        let together = timeline.points(3);
        assert_eq!((together.len(), together[0].connections, together[0].failed), (1, 3, 1));
    }

    #[test]
    fn hour_takes_as_many_buckets_as_ten_seconds() {
        let mut timeline = Timeline::new();
        for tenth in 0..36_000 {
            timeline.add_served(tenth * 100 * MS, MS * if tenth == 20_000 { 700 } else { 1 }, false);
        }
        let points = timeline.points(1);
        assert!(points.len() <= MAX_BUCKETS && points.len() > MAX_BUCKETS / 4, "{}", points.len());
        assert_eq!(points.iter().map(|point| point.connections).sum::<u64>(), 36_000);
        let slowest = points.iter().find(|point| point.max == Some(700_000)).expect("the slowest is kept exactly");
        assert!((slowest.from..slowest.from + timeline.width()).contains(&(2_000_000 * MS)));
        assert!(slowest.p50 < Some(2_000));
    }

    #[test]
    fn connection_that_ends_late_counts_in_an_earlier_bucket() {
        let mut timeline = Timeline::new();
        timeline.add_served(Duration::from_secs(100), MS, false);
        timeline.add_failed(MS);
        assert_eq!(timeline.points(1)[0].failed, 1);
    }
}

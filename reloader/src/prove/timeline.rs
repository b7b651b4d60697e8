//! Latency over time in a bounded number of buckets: however long a load goes on, it takes the same room.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::units::to_micros;

/// Never more buckets than this; at the limit two become one.
const MOST: usize = 480;
/// The width to begin with: a curve of a few seconds should have points.
const FIRST_WIDTH: Duration = Duration::from_millis(20);

/// What became of the connections that were due in each of equal spans of time.
#[derive(Clone)]
pub struct Timeline {
    width: Duration,
    buckets: Vec<Bucket>,
}

#[derive(Clone)]
struct Bucket {
    connections: u64,
    failed: u64,
    late: u64,
    /// Microseconds. One digit is what a chart can show.
    latency: Histogram<u32>,
    slowest: u64,
}

/// One bucket, for a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Its begin, from the load's.
    pub from: Duration,
    /// Connections that were due in it.
    pub connections: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Those that were served late: slow, or after a SYN was sent again.
    pub late: u64,
    /// Half of those served took no longer, in microseconds; `None` where none was served.
    pub p50: Option<u64>,
    /// 99 in 100 of those served took no longer.
    pub p99: Option<u64>,
    /// None of those served took longer.
    pub max: Option<u64>,
}

impl Timeline {
    /// Nothing yet.
    pub fn new() -> Timeline {
        Timeline { width: FIRST_WIDTH, buckets: Vec::new() }
    }

    /// A connection that was due at `offset` and served after `latency`.
    pub fn served(&mut self, offset: Duration, latency: Duration, is_late: bool) {
        let bucket = self.bucket(offset);
        bucket.connections += 1;
        bucket.late += u64::from(is_late);
        bucket.latency.saturating_record(to_micros(latency));
        bucket.slowest = bucket.slowest.max(to_micros(latency));
    }

    /// One that failed.
    pub fn failed(&mut self, offset: Duration) {
        let bucket = self.bucket(offset);
        bucket.connections += 1;
        bucket.failed += 1;
    }

    /// How long a bucket lasts.
    pub fn width(&self) -> Duration {
        self.width
    }

    /// Its buckets in order, so many taken together as one; those in which nothing was due are left out.
    pub fn points(&self, together: usize) -> Vec<Point> {
        let together = together.max(1);
        let merged = self.buckets.chunks(together).map(|buckets| {
            let mut whole = buckets[0].clone();
            buckets[1..].iter().for_each(|bucket| whole.absorb(bucket));
            whole
        });
        let from = |index: usize| self.width * (index * together) as u32;
        let filled = merged.enumerate().filter(|(_, bucket)| bucket.connections > 0);
        filled.map(|(index, bucket)| bucket.point(from(index))).collect()
    }

    fn bucket(&mut self, offset: Duration) -> &mut Bucket {
        let mut index = self.index(offset);
        while index >= MOST {
            self.halve();
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

    fn halve(&mut self) {
        self.width *= 2;
        let mut halved = Vec::with_capacity(MOST);
        let mut buckets = std::mem::take(&mut self.buckets).into_iter();
        while let Some(mut bucket) = buckets.next() {
            if let Some(next) = buckets.next() {
                bucket.absorb(&next);
            }
            halved.push(bucket);
        }
        self.buckets = halved;
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
    fn each_connection_counts_where_it_was_due() {
        let mut timeline = Timeline::new();
        timeline.served(5 * MS, MS, false);
        timeline.served(6 * MS, 3 * MS, true);
        timeline.failed(45 * MS);
        let points = timeline.points(1);
        assert_eq!(points.len(), 2, "the empty bucket is left out");
        assert_eq!((points[0].connections, points[0].late, points[0].max), (2, 1, Some(3000)));
        assert_eq!((points[1].from, points[1].failed, points[1].p50), (40 * MS, 1, None));
        let together = timeline.points(3);
        assert_eq!((together.len(), together[0].connections, together[0].failed), (1, 3, 1));
    }

    #[test]
    fn an_hour_takes_no_more_room_than_ten_seconds() {
        let mut timeline = Timeline::new();
        for tenth in 0..36_000 {
            timeline.served(tenth * 100 * MS, MS * if tenth == 20_000 { 700 } else { 1 }, false);
        }
        let points = timeline.points(1);
        assert!(points.len() <= MOST && points.len() > MOST / 4, "{}", points.len());
        assert_eq!(points.iter().map(|point| point.connections).sum::<u64>(), 36_000);
        let slowest = points.iter().find(|point| point.max == Some(700_000)).expect("the slowest is kept exactly");
        assert!((slowest.from..slowest.from + timeline.width()).contains(&(2_000_000 * MS)));
        assert!(slowest.p50 < Some(2_000));
    }

    #[test]
    fn what_ends_late_still_finds_its_place() {
        let mut timeline = Timeline::new();
        timeline.served(Duration::from_secs(100), MS, false);
        timeline.failed(MS);
        assert_eq!(timeline.points(1)[0].failed, 1);
    }
}

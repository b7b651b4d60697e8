//! Groups connections by the time at which they were due, relative to the nearest reload, summed over all reloads.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How much time before a reload's beginning is covered.
pub const BEFORE: Duration = Duration::from_millis(50);
/// How much time after a reload's beginning is covered.
pub const AFTER: Duration = Duration::from_millis(350);
/// Connections that were due within this time share a bucket.
pub const BUCKET: Duration = Duration::from_millis(5);

/// The connections of one bucket, over all reloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Moment {
    /// Connections that were due.
    pub connections: u64,
    /// How many of them were lost.
    pub lost: u64,
    /// The slowest served connection, in microseconds.
    pub slowest_us: u64,
}

/// The number of buckets.
pub(super) fn buckets() -> usize {
    ((BEFORE + AFTER).as_micros() / BUCKET.as_micros()) as usize
}

/// The bucket of a connection that was due at `due`. `reloads` are the times at which reloads began, in order.
pub(super) fn bucket(due: Duration, reloads: &[Duration]) -> Option<usize> {
    let following = reloads.partition_point(|began| began.saturating_sub(BEFORE) <= due);
    let began = reloads[..following].last()?;
    let index = ((due + BEFORE - *began).as_micros() / BUCKET.as_micros()) as usize;
    (index < buckets()).then_some(index)
}

impl Moment {
    pub(super) fn add(&mut self, other: &Moment) {
        self.connections += other.connections;
        self.lost += other.lost;
        self.slowest_us = self.slowest_us.max(other.slowest_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_falls_into_a_bucket_of_the_reload_around_it() {
        let ms = Duration::from_millis;
        let reloads = [ms(100), ms(1_000)];
        assert_eq!(bucket(ms(49), &reloads), None);
        assert_eq!(bucket(ms(50), &reloads), Some(0));
        assert_eq!(bucket(ms(100), &reloads), Some(10));
        assert_eq!(bucket(ms(449), &reloads), Some(79));
        assert_eq!(bucket(ms(450), &reloads), None);
        assert_eq!(bucket(ms(950), &reloads), Some(0));
        assert_eq!(bucket(ms(1_000), &[]), None);
        // A reload that began less than `BEFORE` after the load.
        assert_eq!(bucket(ms(0), &[ms(20)]), Some(6));
        assert_eq!(buckets(), 80);
    }
}

//! Connections by the time at which they were due, counted from the reload nearest to them: what a reload does, seen once for
//! all reloads.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is looked at before a reload begins.
pub const BEFORE: Duration = Duration::from_millis(50);
/// And after that.
pub const AFTER: Duration = Duration::from_millis(350);
/// Connections due within this count together.
pub const BUCKET: Duration = Duration::from_millis(5);

/// Those that were due in one bucket, of all reloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Moment {
    /// How many were due.
    pub connections: u64,
    /// Of which were lost.
    pub lost: u64,
    /// Of those served the slowest, in microseconds.
    pub slowest_us: u64,
}

/// How many buckets there are.
pub(super) fn buckets() -> usize {
    ((BEFORE + AFTER).as_micros() / BUCKET.as_micros()) as usize
}

/// The bucket of a connection that was due at `due`, of reloads that began at these times in this order.
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
    fn a_connection_belongs_to_the_reload_that_it_stands_closest_behind_or_just_before() {
        let ms = Duration::from_millis;
        let reloads = [ms(100), ms(1_000)];
        assert_eq!(bucket(ms(49), &reloads), None);
        assert_eq!(bucket(ms(50), &reloads), Some(0));
        assert_eq!(bucket(ms(100), &reloads), Some(10));
        assert_eq!(bucket(ms(449), &reloads), Some(79));
        assert_eq!(bucket(ms(450), &reloads), None);
        assert_eq!(bucket(ms(950), &reloads), Some(0));
        assert_eq!(bucket(ms(1_000), &[]), None);
        // One that began before there was so much time before it.
        assert_eq!(bucket(ms(0), &[ms(20)]), Some(6));
        assert_eq!(buckets(), 80);
    }
}

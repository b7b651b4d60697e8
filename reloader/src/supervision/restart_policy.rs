//! Decides when a generation that ended by itself is started again, and when custody is given up. Pure.

use std::time::{Duration, Instant};

/// A generation that served at least this long starts a new count of failures.
const STABLE_AFTER: Duration = Duration::from_secs(1);
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest delay between failed starts.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// The longest delay before a start after crashes of generations that served. It is shorter than `SHORTEST_CUSTODY`, so
/// that a crash loop refuses no client.
const LONGEST_CRASH_DELAY: Duration = Duration::from_secs(1);
/// After this many failed starts custody is dropped, so that clients and health checks fail over.
const STARTS_BEFORE_CUSTODY_IS_DROPPED: u32 = 2;
const SHORTEST_CUSTODY: Duration = Duration::from_secs(2);

/// Why custody is dropped while nothing serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CustodyEnd {
    /// Two starts have failed.
    FailedStarts,
    /// Custody was kept for `custody-max`.
    CustodyMax,
    /// The start of the daemon came to nothing.
    NoStart,
}

impl CustodyEnd {
    /// The reason, to follow "nothing serves".
    pub(crate) fn words(self) -> &'static str {
        match self {
            CustodyEnd::FailedStarts => "two starts have failed",
            CustodyEnd::CustodyMax => "custody-max has passed",
            CustodyEnd::NoStart => "nothing could be started",
        }
    }
}

/// How long nothing has served, and what was tried.
#[derive(Debug)]
pub(crate) struct Outage {
    since: Instant,
    /// The number of failed starts since `since`.
    failures: u32,
    /// The number of ends in quick succession before this one.
    crashes: u32,
    known_good_next: bool,
    next_try: Instant,
}

impl Outage {
    /// Begins an outage: the serving generation ended at `now`, after it had served for `served`. `earlier` is the outage
    /// before.
    pub(crate) fn begin(now: Instant, served: Duration, earlier: Option<&Outage>) -> Outage {
        let crashes = if served >= STABLE_AFTER { 0 } else { earlier.map_or(0, |down| down.crashes + 1) };
        Outage {
            since: now,
            failures: 0,
            crashes,
            known_good_next: false,
            next_try: now + delay(crashes).min(LONGEST_CRASH_DELAY),
        }
    }

    /// When to try the next start.
    pub(crate) fn next_try(&self) -> Instant {
        self.next_try
    }

    /// Counts a start that failed at `now`. If custody-max `cut` the start short, the failure says nothing against the
    /// configuration.
    pub(crate) fn failed(&mut self, now: Instant, cut: bool) {
        self.failures += 1;
        self.known_good_next ^= !cut;
        // The second start is made at once: it uses the last-known-good configuration.
        let tries = self.failures + self.crashes;
        self.next_try = now + if self.failures == 1 && self.crashes == 0 { Duration::ZERO } else { delay(tries) };
    }

    /// Whether the next start uses the last-known-good configuration. Starts use it and the configuration on disk in
    /// turn.
    pub(crate) fn use_known_good(&self) -> bool {
        self.known_good_next
    }

    /// Why custody must be dropped now. `None` if it is kept.
    pub(crate) fn why_custody_is_over(&self, now: Instant, custody_max: Duration) -> Option<CustodyEnd> {
        if self.failures >= STARTS_BEFORE_CUSTODY_IS_DROPPED {
            return Some(CustodyEnd::FailedStarts);
        }
        (now >= self.since + custody_max).then_some(CustodyEnd::CustodyMax)
    }

    /// When custody is dropped at the latest.
    pub(crate) fn custody_ends(&self, custody_max: Duration) -> Instant {
        self.since + custody_max
    }
}

/// How long custody is kept with nothing serving: as configured, or twice the last measured start.
pub(crate) fn custody_max(configured: Option<Duration>, last_start: Option<Duration>) -> Duration {
    configured.unwrap_or_else(|| (last_start.unwrap_or_default() * 2).max(SHORTEST_CUSTODY))
}

fn delay(tries: u32) -> Duration {
    match tries {
        0 => Duration::ZERO,
        tries => (FIRST_DELAY * 2u32.saturating_pow((tries - 1).min(16))).min(LONGEST_DELAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(5);

    #[test]
    fn crash_after_stable_service_restarts_without_delay() {
        let now = Instant::now();
        assert_eq!(Outage::begin(now, LONG, None).next_try(), now);
        assert_eq!(Outage::begin(now, SHORT, None).next_try(), now);
    }

    #[test]
    fn crashes_in_quick_succession_are_answered_later_each_time() {
        let now = Instant::now();
        let mut down = Outage::begin(now, SHORT, None);
        let mut waits = Vec::new();
        for _ in 0..12 {
            down = Outage::begin(now, SHORT, Some(&down));
            waits.push(down.next_try() - now);
        }
        assert_eq!(waits[..3], [100, 200, 400].map(Duration::from_millis));
        assert_eq!(waits[11], LONGEST_CRASH_DELAY);
        assert_eq!(Outage::begin(now, LONG, Some(&down)).next_try(), now);
    }

    #[test]
    fn the_second_try_is_the_known_good_at_once_and_then_custody_ends() {
        let now = Instant::now();
        let mut down = Outage::begin(now, LONG, None);
        assert!(!down.use_known_good());
        down.failed(now, false);
        assert!(down.use_known_good() && down.next_try() == now && down.why_custody_is_over(now, LONG).is_none());
        down.failed(now, false);
        assert!(!down.use_known_good() && down.next_try() > now);
        assert_eq!(down.why_custody_is_over(now, LONG), Some(CustodyEnd::FailedStarts));
    }

    #[test]
    fn a_start_that_was_only_too_slow_says_nothing_against_its_configuration() {
        let mut down = Outage::begin(Instant::now(), LONG, None);
        down.failed(Instant::now(), true);
        assert!(!down.use_known_good());
    }

    #[test]
    fn custody_lasts_twice_the_last_start_and_at_least_two_seconds() {
        assert_eq!(custody_max(None, None), Duration::from_secs(2));
        assert_eq!(custody_max(None, Some(Duration::from_secs(20))), Duration::from_secs(40));
        assert_eq!(custody_max(Some(Duration::from_millis(5)), Some(LONG)), Duration::from_millis(5));
        let now = Instant::now();
        let down = Outage::begin(now, LONG, None);
        assert_eq!(down.why_custody_is_over(now + SHORT, Duration::from_secs(2)), None);
        let over = down.why_custody_is_over(now + Duration::from_secs(2), Duration::from_secs(2));
        assert_eq!(over, Some(CustodyEnd::CustodyMax));
    }
}

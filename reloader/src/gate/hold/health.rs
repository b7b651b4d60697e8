//! What is known of a hold while it stands: the holder's thread writes it, whoever asked for the hold reads it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::LEASE;

#[derive(Debug)]
pub(super) struct HoldHealth(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    /// When the holder was last there in time.
    beat: Instant,
    /// What speaks against a proof, the first of it.
    doubt: Option<String>,
}

impl HoldHealth {
    pub(super) fn new() -> HoldHealth {
        HoldHealth(Mutex::new(Seen { beat: Instant::now(), doubt: None }))
    }

    pub(super) fn heartbeat(&self) {
        self.seen().beat = Instant::now();
    }

    /// The first that is said is kept.
    pub(super) fn note(&self, doubt: &str) {
        self.seen().doubt.get_or_insert_with(|| doubt.to_owned());
    }

    pub(super) fn doubt(&self) -> Option<String> {
        let seen = self.seen();
        seen.doubt.clone().or_else(|| standstill(&seen, Instant::now()))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever asks may be awake again before the holder is, which would tell.
fn standstill(seen: &Seen, now: Instant) -> Option<String> {
    let still = now.saturating_duration_since(seen.beat);
    (still > LEASE).then(|| format!("the hold was not renewed for {} ms", still.as_millis()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_doubt_is_kept() {
        let pulse = HoldHealth::new();
        pulse.note("one");
        pulse.note("another");
        assert_eq!(pulse.doubt().as_deref(), Some("one"));
    }

    #[test]
    fn a_holder_that_stands_still_is_a_doubt_once_its_lease_is_over() {
        let seen = Seen { beat: Instant::now(), doubt: None };
        assert_eq!(standstill(&seen, seen.beat + LEASE), None);
        let later = seen.beat + LEASE + Duration::from_millis(1);
        assert_eq!(standstill(&seen, later).as_deref(), Some("the hold was not renewed for 501 ms"));
    }
}

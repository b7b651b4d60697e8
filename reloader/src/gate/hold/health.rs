//! The health of a hold in force: the worker's thread writes it, the owner of the hold reads it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::gate::contract::LEASE;

/// The health of a hold in force.
#[derive(Debug)]
pub(super) struct HoldHealth(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When the worker last renewed the lease.
    last_heartbeat: Instant,
    /// The first fact that stands against a proof.
    doubt: Option<String>,
}

impl HoldHealth {
    pub(super) fn new() -> HoldHealth {
        HoldHealth(Mutex::new(State { last_heartbeat: Instant::now(), doubt: None }))
    }

    /// The worker has renewed the lease.
    pub(super) fn heartbeat(&self) {
        self.state().last_heartbeat = Instant::now();
    }

    /// Notes a doubt. The first one is kept.
    pub(super) fn note(&self, doubt: &str) {
        self.state().doubt.get_or_insert_with(|| doubt.to_owned());
    }

    /// What stands against a proof by now.
    pub(super) fn doubt(&self) -> Option<String> {
        let state = self.state();
        state.doubt.clone().or_else(|| standstill(&state, Instant::now()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker that has stood still for longer than its lease. After a stop of the whole process, the reader may run before the worker,
/// which would note it.
fn standstill(state: &State, now: Instant) -> Option<String> {
    let still = now.saturating_duration_since(state.last_heartbeat);
    (still > LEASE).then(|| format!("the hold was not renewed for {} ms", still.as_millis()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_doubt_is_kept() {
        let health = HoldHealth::new();
        health.note("one");
        health.note("another");
        assert_eq!(health.doubt().as_deref(), Some("one"));
    }

    #[test]
    fn a_worker_that_stands_still_for_longer_than_its_lease_is_a_doubt() {
        let state = State { last_heartbeat: Instant::now(), doubt: None };
        assert_eq!(standstill(&state, state.last_heartbeat + LEASE), None);
        let later = state.last_heartbeat + LEASE + Duration::from_millis(1);
        assert_eq!(standstill(&state, later).as_deref(), Some("the hold was not renewed for 501 ms"));
    }
}

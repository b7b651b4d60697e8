//! Waits until a condition is true, instead of sleeping for a fixed time.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Checks `condition` until it is true. Gives false if it was not true within `limit`.
pub fn satisfied_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(2));
    }
}

/// Checks `condition` until it is true. Panics, and names what was waited for, if it was not true within `limit`.
#[track_caller]
pub fn until(limit: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(satisfied_within(limit, condition), "waited {limit:?} for {what}");
}

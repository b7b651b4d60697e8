//! Waiting for evidence instead of sleeping for luck.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Look until `seen` says yes; false when it has not within `limit`.
pub fn satisfied_within(limit: Duration, mut seen: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if seen() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(2));
    }
}

/// Look until `seen` says yes; panics, saying what was waited for, when it has not within `limit`.
#[track_caller]
pub fn until(limit: Duration, what: &str, seen: impl FnMut() -> bool) {
    assert!(satisfied_within(limit, seen), "waited {limit:?} for {what}");
}

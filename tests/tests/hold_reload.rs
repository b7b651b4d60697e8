//! HAProxy reloaded under a hold. Every test needs root, for a network namespace of its own.

use reloader_tests::load::Outcomes;
use reloader_tests::rig::Answer;

#[path = "hold_reload/at_risk.rs"]
mod at_risk;
#[path = "hold_reload/before_1_8.rs"]
mod before_1_8;
#[path = "hold_reload/beside.rs"]
mod beside;
#[path = "hold_reload/deaths.rs"]
mod deaths;
#[path = "hold_reload/ended_early.rs"]
mod ended_early;
#[path = "hold_reload/failures.rs"]
mod failures;
#[path = "hold_reload/replaced.rs"]
mod replaced;

const WEB: &str = "127.0.0.1:8000";
const HOLD: &str = "[reload]\nstrategy = \"hold\"\n";

/// A connection is slow because a hold was long, on a busy machine, or because its SYN was lost: only the one may be.
#[track_caller]
fn assert_slow_only_by(receipts: &[Answer], outcomes: &Outcomes) {
    let long = |receipt: &Answer| receipt.at("/syns/longest-hold-us").as_u64() > Some(500_000);
    assert!(outcomes.summary().slow == 0 || receipts.iter().any(long), "{outcomes}");
}

//! HAProxy reloaded under a hold. Every test needs root, for a network namespace of its own.

use reloader_tests::load::Outcomes;
use reloader_tests::rig::Answer;

mod before_1_8;
mod changed_sockets;
mod daemon_deaths;
mod devices;
mod ended_early;
mod failures;
mod many;
mod side_by_side;

const WEB: &str = "127.0.0.1:8000";
const HOLD: &str = "[reload]\nstrategy = \"hold\"\n";

/// A connection is slow because a hold was long, on a busy machine, or because its SYN was lost: only the one may be.
#[track_caller]
fn assert_slow_only_by(receipts: &[Answer], outcomes: &Outcomes) {
    let long = |receipt: &Answer| receipt.at("/syns/longest-hold-us").as_u64() > Some(500_000);
    assert!(outcomes.summary().slow == 0 || receipts.iter().any(long), "{outcomes}");
}

//! Reloads HAProxy under a hold. Every test needs root to create a network namespace.

use reloader_tests::load::Outcomes;
use reloader_tests::rig::Answer;

mod before_1_8;
mod changed_sockets;
mod daemon_deaths;
mod devices;
mod ended_early;
mod failures;
mod many;
mod prepared;
mod side_by_side;
mod stand_in_before_1_8;

const WEB: &str = "127.0.0.1:8000";
const HOLD: &str = "[reload]\nstrategy = \"hold\"\n";

/// Panics if a connection was slow without a long hold. On a busy machine a hold can be long, which is allowed. A lost
/// SYN is not.
#[track_caller]
fn assert_slow_only_by(receipts: &[Answer], outcomes: &Outcomes) {
    let long = |receipt: &Answer| receipt.at("/syns/longest-hold-us").as_u64() > Some(500_000);
    assert!(outcomes.summary().slow == 0 || receipts.iter().any(long), "{outcomes}");
}

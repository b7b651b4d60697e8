//! HAProxy reloaded under a hold. Every test needs root, for a network namespace of its own.

#[path = "hold_reload/at_risk.rs"]
mod at_risk;
#[path = "hold_reload/before_1_8.rs"]
mod before_1_8;
#[path = "hold_reload/beside.rs"]
mod beside;
#[path = "hold_reload/deaths.rs"]
mod deaths;
#[path = "hold_reload/failures.rs"]
mod failures;
#[path = "hold_reload/replaced.rs"]
mod replaced;

const WEB: &str = "127.0.0.1:8000";
const HOLD: &str = "[reload]\nstrategy = \"hold\"\n";

//! HAProxy reloaded by steering: every listener is bound anew beside the old one. Needs root, for a network namespace of its own.

#[path = "steer_reload/changes.rs"]
mod changes;
#[path = "steer_reload/clean.rs"]
mod clean;
#[path = "steer_reload/failures.rs"]
mod failures;
#[path = "steer_reload/stalled.rs"]
mod stalled;

const WEB: &str = "127.0.0.1:8000";
const STEER: &str = "[reload]\nstrategy = \"steer\"\n";

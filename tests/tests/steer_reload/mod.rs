//! HAProxy reloaded by steering: every listener is bound anew beside the old one. Needs root, for a network namespace of its own.

mod changes;
mod clean;
mod failures;
mod stalled;

const WEB: &str = "127.0.0.1:8000";
const STEER: &str = "[reload]\nstrategy = \"steer\"\n";

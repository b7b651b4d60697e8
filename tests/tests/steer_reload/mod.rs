//! Tests reloads of HAProxy by steering: every listener is bound again beside the old one. Each test needs root, for a network namespace of
//! its own.

mod changes;
mod failures;
mod lossless;
mod stalled;

const WEB: &str = "127.0.0.1:8000";
const STEER: &str = "[reload]\nstrategy = \"steer\"\n";

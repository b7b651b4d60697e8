//! How often the loop of a service comes round.

use std::time::Duration;

/// The rhythm of custody checks: a listener that the server closed leaves custody within twice this time.
pub(super) const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// How often a wait before a reload (resync, min-interval, max-draining) is looked at.
pub(super) const RECHECK_INTERVAL: Duration = Duration::from_millis(100);

/// No event tells that another worker of a companion has the sockets; what comes to one that only the daemon has waits for so long.
pub(super) const WORKER_POLL_INTERVAL: Duration = Duration::from_millis(100);

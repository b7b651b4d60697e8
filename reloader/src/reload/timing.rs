//! How often a reload looks at what no event tells of, and how long it waits where the operator sets nothing.

use std::time::Duration;

/// No event tells that a queue has changed, or that another process has closed a descriptor.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// What passed a moment before a hold or a program was in place has reached TCP after this time: it came by no other way.
pub(crate) const IN_FLIGHT: Duration = Duration::from_millis(2);

/// What clients or the old generation may take longer for than the operator set, because a listener or a configuration says so, ends after this
/// time.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A lease outlives what it is for by this time.
pub(crate) const LEASE_MARGIN: Duration = Duration::from_secs(5);

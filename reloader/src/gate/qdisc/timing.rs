//! The times of the qdisc gate.

use std::time::Duration;

/// How long the kernel may take to deliver parked SYNs, or to give up a table or qdisc that is busy.
pub(super) const KERNEL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile. No event tells it.
pub(super) const KERNEL_POLL_INTERVAL: Duration = Duration::from_millis(1);

//! The times that a hold and its gate agree on.

use std::time::Duration;

/// How long a hold lasts after [`Gate::arm`](super::Gate::arm) or the last [`Gate::renew`](super::Gate::renew).
pub const LEASE: Duration = Duration::from_millis(500);

/// How long holder and guard wait for each other's delivery. A stopped process must not keep SYNs parked for longer. A running one
/// is never busy with a single SYN for as long as this.
pub(in crate::gate) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(3);

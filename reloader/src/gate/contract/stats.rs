//! Counts what became of the SYNs of a hold.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What became of the SYNs of a hold, in packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldStats {
    /// SYNs that were parked.
    pub held: u64,
    /// SYNs that were delivered. Fewer than `held` where a client sent one SYN twice.
    pub released: u64,
    /// SYNs that were not parked, because there was no room.
    pub dropped: u64,
    /// SYNs that were parked and not delivered, because their device has gone.
    pub device_gone: u64,
    /// SYNs that passed the gate, because the lease had run out.
    pub lease_lapsed: u64,
    /// The longest time for which a SYN was parked.
    pub longest: Duration,
}

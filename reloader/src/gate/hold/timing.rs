//! The times of a hold: how often each part acts, and how long it waits for another.

use std::time::Duration;

use crate::gate::contract::LEASE;

/// How often the holder renews the lease. A renewal may be late by four times this.
pub(super) const RENEWAL_INTERVAL: Duration = Duration::from_millis(LEASE.as_millis() as u64 / 5);

/// How long a process waits for another one that reads the registry, or changes what holds share.
pub(super) const REGISTRY_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long `reloader release` waits for the guards. A guard gives its holder [`HOLDER_RELEASE_TIMEOUT`] to begin, and may then wait
/// for the delivery lock.
pub(super) const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often `reloader release` looks whether the guards have released. No event tells it.
pub(super) const RELEASE_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How long the holder waits for an answer of its guard while no SYN is parked.
pub(super) const GUARD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the holder waits for an answer of its guard while SYNs are parked. It hears no order to release meanwhile.
pub(super) const GUARD_TIMEOUT_WHILE_HOLDING: Duration = Duration::from_millis(LEASE.as_millis() as u64 / 2);

/// How long a guard may take to start in the place of one that has died. SYNs are parked meanwhile.
pub(super) const GUARD_REPLACEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the holder looks whether its guard has ended.
pub(super) const GUARD_EXIT_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How long the guard waits for a holder that arms or delivers, which says nothing meanwhile. The gates wait 2 and 5 s for what
/// listeners and the kernel do soon.
pub(super) const HOLDER_DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the guard waits for a holder to begin a release that `reloader release` asked for. After it the guard releases.
pub(super) const HOLDER_RELEASE_TIMEOUT: Duration = LEASE;

/// How often a guard without a holder looks whether something listens. No event tells of listen(2) in another process.
pub(super) const LISTENER_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A server binds its ports one after the other. A server that has bound some of them, and no further one for this time, has left out
/// the rest on purpose.
pub(super) const LISTENERS_SETTLED_AFTER: Duration = Duration::from_secs(1);

/// How long a guard without a holder asks a kernel that does not list its listeners. No SYN is released meanwhile.
pub(super) const LISTING_TIMEOUT: Duration = Duration::from_secs(1);

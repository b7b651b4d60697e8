//! The times of the eBPF gate.

use std::time::Duration;

/// How long a handshake on this host may take. A client that answers later is on another host and needs no settling, or is silent.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(20);

/// How often the gate looks whether handshakes are done. No event tells it.
pub(super) const HANDSHAKE_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The programs settle handshakes while SYNs are delivered. Where no process is left to detach them, they stop after this.
pub(super) const SETTLING_LIMIT: Duration = Duration::from_secs(5);

/// How long the gate waits for a server that accepts nothing. Its clients try again after a second, and then after three.
pub(super) const BACKLOG_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the gate waits for all servers together, counted from the first SYN.
pub(super) const PACING_LIMIT: Duration = Duration::from_secs(2);

/// How often the gate looks at a full accept queue. No event tells that a connection was accepted.
pub(super) const BACKLOG_POLL_INTERVAL: Duration = Duration::from_millis(1);

//! Handshakes that are not done.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::kernel::sock_diag::{self, SockDiagError};
use crate::listener::Endpoint;

/// A connection's two ends.
pub(super) type Ends = (SocketAddr, SocketAddr);

/// Handshakes on these addresses: without the `late` ones those whose SYN-ACK was sent once only.
pub(super) fn half_open(endpoints: &[Endpoint], late: bool) -> Result<HashSet<Ends>, SockDiagError> {
    let pending = sock_diag::half_open(0)?;
    let awaited = pending.into_iter().filter(|found| {
        (late || found.retransmits == 0) && endpoints.iter().any(|endpoint| endpoint.covers(found.local))
    });
    Ok(awaited.map(|found| (found.local, found.remote)).collect())
}

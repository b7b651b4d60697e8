//! Describes a group that is steered, and what became of its connections.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// One SO_REUSEPORT group: which of its sockets get the connections.
#[derive(Debug)]
pub struct Group<'a> {
    /// The address on which all of its sockets listen.
    pub address: SocketAddr,
    /// Whether an IPv6 group refuses IPv4 (IPV6_V6ONLY).
    pub v6only: bool,
    /// The index of the device that the sockets are bound to, 0 for none.
    pub interface: u32,
    /// The sockets that are to get all connections.
    pub to: Vec<Arc<OwnedFd>>,
    /// The sockets that are to get no more.
    pub from: Vec<BorrowedFd<'a>>,
}

/// What became of the connections of one group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// New connections that were steered.
    pub steered: u64,
    /// Connections that moved over from a closed listener.
    pub migrated: u64,
}

/// What was left to the kernel's own choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// New connections.
    pub connections: u64,
    /// Segments of no connection that may answer a SYN cookie. Each began a connection only if the kernel took it for a valid
    /// answer (`SyncookiesRecv`). Segments of connections that are closed already are among them.
    pub answers: u64,
}

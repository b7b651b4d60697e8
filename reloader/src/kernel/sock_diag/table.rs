//! Entries of the kernel's socket tables, and the request that lists them.

use std::io;
use std::net::SocketAddr;

use netlink_packet_sock_diag::SockDiagMessage;
use rtnetlink::packet_core::NLM_F_DUMP;
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;

use crate::kernel::netlink;
use crate::model::listener::Address;

/// The socket tables could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not list its sockets (sock_diag): {0}; it needs the modules tcp_diag and unix_diag")]
pub struct SockDiagError(io::Error);

/// A listening socket with its accept queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSocket {
    /// The socket's inode.
    pub inode: u64,
    /// The address on which it listens.
    pub address: Address,
    /// The number of the device that it is bound to (SO_BINDTODEVICE), 0 for none.
    pub interface: u32,
    /// IPv6 without the IPv4 half; false for other families.
    pub v6only: bool,
    /// The file that a unix socket was bound to, whether or not it still has a name.
    pub file: Option<BoundFile>,
    /// Connections in the accept queue.
    pub queued: u32,
    /// The accept queue's limit.
    pub backlog: u32,
}

/// The file of a unix socket in its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundFile {
    /// The lower 32 bits of the file's inode number.
    pub inode: u32,
    /// The major and minor number of the file system's device.
    pub device: (u32, u32),
}

/// A TCP connection, or a half-open one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The socket's inode, 0 until the connection is accepted.
    pub inode: u64,
    /// The address on this side.
    pub local: SocketAddr,
    /// The address on the other side.
    pub remote: SocketAddr,
    /// Retransmissions of unacknowledged data; for a half-open connection, of its SYN-ACK.
    pub retransmits: u8,
}

/// The two ends of a connection: the address on this side, and that on the other.
pub type Endpoints = (SocketAddr, SocketAddr);

impl Connection {
    /// Identifies the connection as long as it lives: its inode is 0 until it is accepted.
    pub fn endpoints(&self) -> Endpoints {
        (self.local, self.remote)
    }
}

pub(super) fn dump(request: SockDiagMessage) -> Result<Vec<SockDiagMessage>, SockDiagError> {
    netlink::request(NETLINK_SOCK_DIAG, request, NLM_F_DUMP).map_err(SockDiagError)
}

//! Describes a hold for its gate.

use std::collections::HashSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::kernel::sock_diag::ListenSocket;
use crate::model::listener::Address;

/// The ids of the holds whose holder or guard lives.
pub type Living = HashSet<u16>;

/// A listener whose SYNs are to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The listener's address. 0.0.0.0 and `::` stand for any address of the host.
    pub address: SocketAddr,
    /// Whether an IPv6 listener refuses IPv4 (IPV6_V6ONLY). Without it, `::` stands for any address of both families.
    pub v6only: bool,
    /// The index of the device that the listener is bound to (SO_BINDTODEVICE), 0 for none.
    pub interface: u32,
}

/// A listener of another server on a single address. A wildcard target does not hold SYNs for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Exception {
    /// The listener's address.
    pub address: SocketAddr,
    /// The index of the device that the listener is bound to, 0 for none. It gets no SYN from other devices.
    pub interface: u32,
}

impl Exception {
    /// The exception for a listener. `None` where the listener is a wildcard itself.
    pub fn from_listener(listener: &ListenSocket) -> Option<Exception> {
        match listener.address {
            Address::Inet(address) if !address.ip().is_unspecified() => {
                Some(Exception { address, interface: listener.interface })
            }
            _ => None,
        }
    }
}

/// One hold, as it is asked of a gate.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Marks what this hold puts into the kernel: 1 to 0x7fff, unique among the living holds.
    pub id: u16,
    /// The listeners whose SYNs are held.
    pub targets: Vec<Target>,
    /// The listeners whose SYNs a wildcard target lets pass.
    pub exceptions: Vec<Exception>,
    /// Room for parked SYNs, in bytes. The eBPF gate rounds it up to a power of two.
    pub capacity: u32,
}

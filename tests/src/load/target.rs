//! Names the address that a load connects to.

use std::net::SocketAddr;
use std::path::PathBuf;

use reloader::load as library;
use socket2::{Domain, SockAddr};

/// The address that a connection goes to. Conversion from text panics if it is not an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(pub(super) library::Target);

impl Target {
    pub(crate) fn resolved(&self) -> (Domain, SockAddr) {
        self.0.to_socket_address().unwrap_or_else(|error| panic!("{error}"))
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target(library::Target::Tcp(address))
    }
}

impl From<&str> for Target {
    /// `127.0.0.1:80`, `[::1]:80`, `/path`, `unix@/path` or `abns@name`, as HAProxy writes them.
    fn from(text: &str) -> Target {
        Target(text.parse().unwrap_or_else(|error| panic!("{error}")))
    }
}

impl From<PathBuf> for Target {
    fn from(path: PathBuf) -> Target {
        Target(library::Target::Unix(path))
    }
}

impl From<&Target> for Target {
    fn from(target: &Target) -> Target {
        target.clone()
    }
}

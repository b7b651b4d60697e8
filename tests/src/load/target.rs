use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr};

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// IPv4 or IPv6.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
    /// The name of an abstract unix socket (HAProxy's `abns@NAME`), without the leading zero byte.
    Abstract(String),
}

impl Target {
    pub(crate) fn resolved(&self) -> (Domain, SockAddr) {
        match self {
            Target::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            Target::Unix(path) => (Domain::UNIX, unix(path)),
            Target::Abstract(name) => (Domain::UNIX, unix(&padded(name))),
        }
    }
}

fn unix(path: &Path) -> SockAddr {
    SockAddr::unix(path).expect("a unix path of at most 107 bytes")
}

/// HAProxy binds an abns name with the whole of sun_path, zero bytes to the end.
fn padded(name: &str) -> PathBuf {
    const SUN_PATH: usize = 108;
    let mut full = format!("\0{name}");
    assert!(full.len() < SUN_PATH, "an abstract name of at most 107 bytes");
    full.extend(std::iter::repeat_n('\0', SUN_PATH - full.len()));
    PathBuf::from(full)
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target::Tcp(address)
    }
}

impl From<&str> for Target {
    /// `127.0.0.1:80`, `[::1]:80`, `/path`, `unix@/path` or `abns@name`, as HAProxy writes them.
    fn from(text: &str) -> Target {
        if let Some(name) = text.strip_prefix("abns@") {
            return Target::Abstract(name.into());
        }
        let bare = text.strip_prefix("unix@").unwrap_or(text);
        if bare.starts_with('/') {
            return Target::Unix(bare.into());
        }
        Target::Tcp(bare.parse().unwrap_or_else(|_| panic!("{text} is not an address to connect to")))
    }
}

impl From<PathBuf> for Target {
    fn from(path: PathBuf) -> Target {
        Target::Unix(path)
    }
}

impl From<&Target> for Target {
    fn from(target: &Target) -> Target {
        target.clone()
    }
}

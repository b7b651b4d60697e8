//! Addresses to connect to.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr};

use super::error::LoadError;

/// Bytes of `sun_path` in `sockaddr_un`.
const SUN_PATH_BYTES: usize = 108;

/// An address that connections go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An IPv4 or IPv6 address and a port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
    /// The name of an abstract unix socket (HAProxy's `abns@NAME`), without the leading zero byte.
    Abstract(String),
}

impl Target {
    /// The address as socket(2) and connect(2) take it.
    ///
    /// # Errors
    /// [`LoadError::AddressTooLong`].
    pub fn to_socket_address(&self) -> Result<(Domain, SockAddr), LoadError> {
        match self {
            Target::Tcp(address) => Ok((Domain::for_address(*address), SockAddr::from(*address))),
            Target::Unix(path) => Ok((Domain::UNIX, self.unix_address(path)?)),
            Target::Abstract(name) => Ok((Domain::UNIX, self.unix_address(&self.padded(name)?)?)),
        }
    }

    fn unix_address(&self, path: &Path) -> Result<SockAddr, LoadError> {
        SockAddr::unix(path).map_err(|_| LoadError::AddressTooLong(self.to_string()))
    }

    /// The name, padded with zero bytes to the whole length of `sun_path`, as HAProxy binds an abns name.
    fn padded(&self, name: &str) -> Result<PathBuf, LoadError> {
        let mut full = format!("\0{name}");
        if full.len() >= SUN_PATH_BYTES {
            return Err(LoadError::AddressTooLong(self.to_string()));
        }
        full.extend(std::iter::repeat_n('\0', SUN_PATH_BYTES - full.len()));
        Ok(PathBuf::from(full))
    }
}

/// Writes the address as HAProxy does: `127.0.0.1:80`, `[::1]:80`, `/path`, `abns@name`.
impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => write!(out, "{address}"),
            Target::Unix(path) => write!(out, "{}", path.display()),
            Target::Abstract(name) => write!(out, "abns@{name}"),
        }
    }
}

impl std::str::FromStr for Target {
    type Err = LoadError;

    /// Reads `127.0.0.1:80`, `[::1]:80`, `/path`, `unix@/path` or `abns@name`. Host names are not resolved.
    fn from_str(text: &str) -> Result<Target, LoadError> {
        if let Some(name) = text.strip_prefix("abns@") {
            return Ok(Target::Abstract(name.into()));
        }
        let bare = text.strip_prefix("unix@").unwrap_or(text);
        if bare.starts_with('/') {
            return Ok(Target::Unix(bare.into()));
        }
        bare.parse().map(Target::Tcp).map_err(|_| LoadError::InvalidAddress(text.to_owned()))
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target::Tcp(address)
    }
}

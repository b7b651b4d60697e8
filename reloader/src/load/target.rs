use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr};

use super::LoadError;

/// Bytes in a unix socket's address.
const SUN_PATH: usize = 108;

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
    /// As socket(2) and connect(2) want it.
    ///
    /// # Errors
    /// [`LoadError::TooLong`].
    pub fn resolved(&self) -> Result<(Domain, SockAddr), LoadError> {
        match self {
            Target::Tcp(address) => Ok((Domain::for_address(*address), SockAddr::from(*address))),
            Target::Unix(path) => Ok((Domain::UNIX, self.unix(path)?)),
            Target::Abstract(name) => Ok((Domain::UNIX, self.unix(&self.padded(name)?)?)),
        }
    }

    fn unix(&self, path: &Path) -> Result<SockAddr, LoadError> {
        SockAddr::unix(path).map_err(|_| LoadError::TooLong(self.to_string()))
    }

    /// HAProxy binds an abns name with the whole of sun_path, zero bytes to the end.
    fn padded(&self, name: &str) -> Result<PathBuf, LoadError> {
        let mut full = format!("\0{name}");
        if full.len() >= SUN_PATH {
            return Err(LoadError::TooLong(self.to_string()));
        }
        full.extend(std::iter::repeat_n('\0', SUN_PATH - full.len()));
        Ok(PathBuf::from(full))
    }
}

/// As HAProxy writes them: `127.0.0.1:80`, `[::1]:80`, `/path`, `abns@name`.
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

    /// `127.0.0.1:80`, `[::1]:80`, `/path`, `unix@/path` or `abns@name`. Names are not resolved.
    fn from_str(text: &str) -> Result<Target, LoadError> {
        if let Some(name) = text.strip_prefix("abns@") {
            return Ok(Target::Abstract(name.into()));
        }
        let bare = text.strip_prefix("unix@").unwrap_or(text);
        if bare.starts_with('/') {
            return Ok(Target::Unix(bare.into()));
        }
        bare.parse().map(Target::Tcp).map_err(|_| LoadError::NoAddress(text.to_owned()))
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target::Tcp(address)
    }
}

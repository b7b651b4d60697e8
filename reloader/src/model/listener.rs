//! A listener: one listening socket, identified by its inode.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// TCP or UDP, IPv4 or IPv6.
    Inet(SocketAddr),
    /// A unix socket in the file system, under the name that clients use.
    Unix(PathBuf),
    /// A unix socket in the abstract namespace, without the leading zero byte.
    Abstract(Vec<u8>),
}

/// Stream (TCP, unix stream) or datagram (QUIC, UDP log).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SocketType {
    /// A socket from which a server accepts connections.
    Stream,
    /// A socket from which a server reads datagrams.
    Datagram,
}

/// Identifies a port independently of the socket that serves it. Two listeners with equal endpoints are "the same port".
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Stream or datagram.
    pub socket_type: SocketType,
    /// A stream socket of Multipath TCP, as far as the socket itself could be asked.
    pub mptcp: bool,
    /// IPv6 without the IPv4 half; false for other families.
    pub v6only: bool,
    /// The interface of SO_BINDTODEVICE.
    pub interface: Option<String>,
    /// The network namespace as HAProxy names it (`bind ... namespace NAME`).
    pub netns: Option<String>,
}

/// One listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Listener {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The socket's inode number. It is the same in every process that shares the socket.
    pub inode: u64,
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Serves clients: counted in every proof.
    Traffic,
    /// A stats or CLI socket: listed, never counted against a proof.
    Control,
}

/// A listener that a generation was seen to own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// The listener.
    pub listener: Listener,
    /// What it is for.
    pub role: Role,
}

/// The address family, as receipts name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
    /// A unix socket with a path.
    Unix,
    /// A unix socket in the abstract namespace.
    Abns,
}

impl Address {
    /// The address family.
    pub fn family(&self) -> Family {
        match self {
            Address::Inet(SocketAddr::V4(_)) => Family::Inet,
            Address::Inet(SocketAddr::V6(_)) => Family::Inet6,
            Address::Unix(_) => Family::Unix,
            Address::Abstract(_) => Family::Abns,
        }
    }

    /// Makes an address from the name that the kernel reports for a unix socket. `None` for an unnamed socket.
    ///
    /// HAProxy binds a unix socket as `PATH.PID.tmp` and renames it, but the kernel keeps reporting the first name
    /// (`uxst_bind_listener` in HAProxy's `proto_uxst.c`). HAProxy pads abstract names with zero bytes.
    pub fn from_unix_name(name: &[u8]) -> Option<Address> {
        match name.split_first()? {
            (0, rest) => {
                let end = rest.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
                Some(Address::Abstract(rest[..end].to_vec()))
            }
            _ => {
                let path = Path::new(std::ffi::OsStr::from_bytes(name.split(|b| *b == 0).next()?));
                Some(Address::Unix(without_temporary_suffix(path)))
            }
        }
    }
}

fn without_temporary_suffix(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let stripped = bytes.strip_suffix(b".tmp").and_then(|rest| {
        let dot = rest.iter().rposition(|b| *b == b'.')?;
        let pid = &rest[dot + 1..];
        (!pid.is_empty() && pid.iter().all(u8::is_ascii_digit)).then_some(&rest[..dot])
    });
    PathBuf::from(std::ffi::OsStr::from_bytes(stripped.unwrap_or(bytes)))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Abstract(name) => write!(f, "abns@{}", String::from_utf8_lossy(name)),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.socket_type, self.mptcp) {
            (SocketType::Datagram, _) => write!(f, "udp@")?,
            (SocketType::Stream, true) => write!(f, "mptcp@")?,
            (SocketType::Stream, false) => {}
        }
        write!(f, "{}", self.address)?;
        if let Some(interface) = &self.interface {
            write!(f, "%{interface}")?;
        }
        if let Some(netns) = &self.netns {
            write!(f, " (namespace {netns})")?;
        }
        Ok(())
    }
}

impl Endpoint {
    /// A plain stream endpoint: no interface, no namespace.
    pub fn stream(address: Address) -> Endpoint {
        Endpoint { address, socket_type: SocketType::Stream, mptcp: false, v6only: false, interface: None, netns: None }
    }

    /// The TCP or UDP address; `None` for unix sockets.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self.address {
            Address::Inet(address) => Some(address),
            _ => None,
        }
    }

    /// The TCP or UDP port; `None` for unix sockets.
    pub fn port(&self) -> Option<u16> {
        self.inet().map(|address| address.port())
    }

    /// Whether this is a TCP listener in the daemon's own network namespace. SYNs to such a listener can be held or
    /// steered.
    pub fn is_tcp_here(&self) -> bool {
        matches!(self.address, Address::Inet(_)) && self.socket_type == SocketType::Stream && self.is_here()
    }

    /// Whether it is a single IPv6 address, not all of them.
    pub fn is_single_ipv6(&self) -> bool {
        matches!(self.address, Address::Inet(SocketAddr::V6(address)) if !address.ip().is_unspecified())
    }

    /// Whether it is in the daemon's own network namespace.
    pub fn is_here(&self) -> bool {
        self.netns.is_none()
    }

    /// True when a connection accepted from this listener can have `local` as its local address.
    pub fn covers(&self, local: SocketAddr) -> bool {
        let Some(own) = self.inet() else { return false };
        if own.port() != local.port() {
            return false;
        }
        let canonical = local.ip().to_canonical();
        match own.ip() {
            IpAddr::V6(ip) if ip.is_unspecified() => !self.v6only || canonical.is_ipv6(),
            IpAddr::V4(ip) if ip.is_unspecified() => canonical.is_ipv4(),
            ip => ip.to_canonical() == canonical,
        }
    }

    /// Whether a client of this endpoint may also be a client of `other`.
    pub fn overlaps(&self, other: &Endpoint) -> bool {
        let covers = |one: &Endpoint, other: &Endpoint| other.inet().is_some_and(|address| one.covers(address));
        covers(self, other) || covers(other, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_temporary_suffix_is_removed_from_unix_names() {
        let unix = |name: &str| Address::from_unix_name(name.as_bytes()).unwrap();
        assert_eq!(unix("/run/a.sock.6385.tmp"), Address::Unix("/run/a.sock".into()));
        assert_eq!(unix("/run/a.sock"), Address::Unix("/run/a.sock".into()));
        assert_eq!(unix("/run/a.x1.tmp"), Address::Unix("/run/a.x1.tmp".into()));
        assert_eq!(unix("/run/a..tmp"), Address::Unix("/run/a..tmp".into()));
        assert_eq!(Address::from_unix_name(b""), None);
    }

    #[test]
    fn abstract_names_lose_their_padding() {
        assert_eq!(Address::from_unix_name(b"\0foo\0\0\0"), Some(Address::Abstract(b"foo".to_vec())));
        assert_eq!(Address::from_unix_name(b"\0f\0o\0"), Some(Address::Abstract(b"f\0o".to_vec())));
    }

    #[test]
    fn any_addresses_cover_local_addresses_of_their_family() {
        let covers = |own: &str, v6only: bool, local: &str| {
            let mut endpoint = Endpoint::stream(Address::Inet(own.parse().unwrap()));
            endpoint.v6only = v6only;
            endpoint.covers(local.parse().unwrap())
        };
        assert!(covers("0.0.0.0:80", false, "127.0.0.1:80"));
        assert!(!covers("0.0.0.0:80", false, "127.0.0.1:81"));
        assert!(!covers("0.0.0.0:80", false, "[::1]:80"));
        assert!(covers("[::]:80", false, "[::ffff:127.0.0.1]:80"));
        assert!(!covers("[::]:80", true, "[::ffff:127.0.0.1]:80"));
        assert!(covers("127.0.0.1:80", false, "127.0.0.1:80"));
        assert!(!covers("127.0.0.1:80", false, "127.0.0.2:80"));
    }
}

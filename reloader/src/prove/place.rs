//! What `--target` says.

use std::net::ToSocketAddrs;

use crate::load::{LoadError, Target};

/// A target as the operator gave it, and the addresses that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As it was given.
    pub text: String,
    /// The host in it, without brackets; `None` for a unix socket.
    pub host: Option<String>,
    /// Its addresses, in the order in which a client would try them.
    pub addresses: Vec<Target>,
}

/// Why it is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// It has no port, or none that can be.
    #[error(
        "--target {0}: there is no port from 1 to 65535 in it; write ADDR:PORT, NAME:PORT, or [ADDR]:PORT for IPv6"
    )]
    Port(String),
    /// It has no host.
    #[error("--target {0}: there is no host in it; write for example 127.0.0.1{0}")]
    Host(String),
    /// An IPv6 address without brackets.
    #[error("--target {0}: write IPv6 addresses in brackets: [ADDR]:PORT")]
    Brackets(String),
    /// A URL.
    #[error(
        "--target {0}: write no URL but ADDR:PORT; --http and --tls say how it is spoken to, --http=/PATH what is asked for"
    )]
    Url(String),
    /// A name that nobody knows.
    #[error("--target {name}: the name cannot be resolved: {reason}")]
    Unknown {
        /// The argument.
        name: String,
        /// What the resolver says.
        reason: String,
    },
    /// A unix socket's address that cannot be.
    #[error("--target {0}")]
    Unix(String),
}

impl Place {
    /// Reads one, and resolves the name in it.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn parse(text: &str) -> Result<Place, PlaceError> {
        let own = || text.to_owned();
        if ["/", "unix@", "abns@"].iter().any(|prefix| text.starts_with(prefix)) {
            let checked = text.parse::<Target>().and_then(|target| target.to_socket_address().map(|_| target));
            let target = checked.map_err(|error: LoadError| PlaceError::Unix(error.to_string()))?;
            return Ok(Place { text: own(), host: None, addresses: vec![target] });
        }
        if text.contains('/') {
            return Err(PlaceError::Url(own()));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| PlaceError::Port(own()))?;
        let is_number = !port.is_empty() && port.bytes().all(|letter| letter.is_ascii_digit());
        if !is_number || !port.parse::<u16>().is_ok_and(|port| port != 0) {
            return Err(PlaceError::Port(own()));
        }
        let bare = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(inner)) => inner,
            Some(None) => return Err(PlaceError::Brackets(own())),
            None if host.contains(':') => return Err(PlaceError::Brackets(own())),
            None => host,
        };
        if bare.is_empty() {
            return Err(PlaceError::Host(own()));
        }
        Ok(Place { text: own(), host: Some(bare.to_owned()), addresses: resolve(text)? })
    }
}

fn resolve(text: &str) -> Result<Vec<Target>, PlaceError> {
    let unknown = |reason: String| PlaceError::Unknown { name: text.to_owned(), reason };
    let mut found: Vec<Target> = Vec::new();
    for address in text.to_socket_addrs().map_err(|error| unknown(error.to_string()))? {
        let target = Target::Tcp(address);
        if !found.contains(&target) {
            found.push(target);
        }
    }
    if found.is_empty() { Err(unknown("it has no address".into())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_names_and_unix_sockets() {
        let place = |text: &str| Place::parse(text).unwrap();
        let first = |text: &str| place(text).addresses[0].to_string();
        assert_eq!((first("127.0.0.1:80"), first("[::1]:80")), ("127.0.0.1:80".into(), "[::1]:80".into()));
        assert_eq!(place("[::1]:80").host.as_deref(), Some("::1"));
        assert_eq!(place("localhost:80").host.as_deref(), Some("localhost"));
        assert_eq!((first("unix@/run/a.sock"), place("/run/a.sock").host), ("/run/a.sock".into(), None));
    }

    #[test]
    fn what_is_none_is_told_with_what_to_write() {
        let refused = |text: &str| Place::parse(text).unwrap_err();
        for text in ["127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:http", "127.0.0.1:99999", "127.0.0.1:-1"] {
            assert_eq!(refused(text), PlaceError::Port(text.into()));
        }
        assert!(refused(":80").to_string().contains("127.0.0.1:80"));
        assert!(matches!(refused("::1:80"), PlaceError::Brackets(_)));
        assert!(matches!(refused("[::1:80"), PlaceError::Brackets(_)));
        assert!(matches!(refused("http://127.0.0.1:80/"), PlaceError::Url(_)));
        assert!(refused(&format!("/{}", "x".repeat(200))).to_string().contains("107 bytes"));
    }
}

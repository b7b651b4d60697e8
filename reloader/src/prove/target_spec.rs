//! Reads the argument of `--target`.

use std::net::ToSocketAddrs;

use crate::load::{LoadError, Target};

/// The target as the operator gave it, with the addresses that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSpec {
    /// The argument.
    pub text: String,
    /// The host in the argument, without brackets; `None` for a unix socket.
    pub host: Option<String>,
    /// The addresses of the host, in the order in which a client tries them.
    pub addresses: Vec<Target>,
}

/// Why the argument is not a target. Each message says what to write.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetSpecError {
    /// The port is missing or not a number from 1 to 65535.
    #[error(
        "--target {0}: there is no port from 1 to 65535 in it; write ADDR:PORT, NAME:PORT, or [ADDR]:PORT for IPv6"
    )]
    Port(String),
    /// The host is missing.
    #[error("--target {0}: there is no host in it; write for example 127.0.0.1{0}")]
    Host(String),
    /// An IPv6 address without brackets.
    #[error("--target {0}: write IPv6 addresses in brackets: [ADDR]:PORT")]
    Brackets(String),
    /// A URL.
    #[error(
        "--target {0}: write ADDR:PORT, not a URL; --http and --tls choose the protocol, and --http=/PATH the path of the request"
    )]
    Url(String),
    /// The host name cannot be resolved.
    #[error("--target {name}: the name cannot be resolved: {reason}")]
    Unresolved {
        /// The argument.
        name: String,
        /// The resolver's message.
        reason: String,
    },
    /// The address of a unix socket is not valid.
    #[error("--target {0}")]
    Unix(String),
}

impl TargetSpec {
    /// Reads the argument, and resolves a host name in it. The resolver may block.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn parse(text: &str) -> Result<TargetSpec, TargetSpecError> {
        let argument = || text.to_owned();
        if ["/", "unix@", "abns@"].iter().any(|prefix| text.starts_with(prefix)) {
            let checked = text.parse::<Target>().and_then(|target| target.to_socket_address().map(|_| target));
            let target = checked.map_err(|error: LoadError| TargetSpecError::Unix(error.to_string()))?;
            return Ok(TargetSpec { text: argument(), host: None, addresses: vec![target] });
        }
        if text.contains('/') {
            return Err(TargetSpecError::Url(argument()));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| TargetSpecError::Port(argument()))?;
        let is_number = !port.is_empty() && port.bytes().all(|letter| letter.is_ascii_digit());
        if !is_number || !port.parse::<u16>().is_ok_and(|port| port != 0) {
            return Err(TargetSpecError::Port(argument()));
        }
        let bare = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(inner)) => inner,
            Some(None) => return Err(TargetSpecError::Brackets(argument())),
            None if host.contains(':') => return Err(TargetSpecError::Brackets(argument())),
            None => host,
        };
        if bare.is_empty() {
            return Err(TargetSpecError::Host(argument()));
        }
        Ok(TargetSpec { text: argument(), host: Some(bare.to_owned()), addresses: resolve(text)? })
    }
}

fn resolve(text: &str) -> Result<Vec<Target>, TargetSpecError> {
    let unresolved = |reason: String| TargetSpecError::Unresolved { name: text.to_owned(), reason };
    let mut addresses: Vec<Target> = Vec::new();
    for address in text.to_socket_addrs().map_err(|error| unresolved(error.to_string()))? {
        let target = Target::Tcp(address);
        if !addresses.contains(&target) {
            addresses.push(target);
        }
    }
    if addresses.is_empty() { Err(unresolved("it has no address".into())) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_names_and_unix_sockets_are_targets() {
        let parse = |text: &str| TargetSpec::parse(text).unwrap();
        let first = |text: &str| parse(text).addresses[0].to_string();
        assert_eq!((first("127.0.0.1:80"), first("[::1]:80")), ("127.0.0.1:80".into(), "[::1]:80".into()));
        assert_eq!(parse("[::1]:80").host.as_deref(), Some("::1"));
        assert_eq!(parse("localhost:80").host.as_deref(), Some("localhost"));
        assert_eq!((first("unix@/run/a.sock"), parse("/run/a.sock").host), ("/run/a.sock".into(), None));
    }

    #[test]
    fn invalid_target_is_refused_with_what_to_write() {
        let refused = |text: &str| TargetSpec::parse(text).unwrap_err();
        for text in ["127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:http", "127.0.0.1:99999", "127.0.0.1:-1"] {
            assert_eq!(refused(text), TargetSpecError::Port(text.into()));
        }
        assert!(refused(":80").to_string().contains("127.0.0.1:80"));
        assert!(matches!(refused("::1:80"), TargetSpecError::Brackets(_)));
        assert!(matches!(refused("[::1:80"), TargetSpecError::Brackets(_)));
        assert!(matches!(refused("http://127.0.0.1:80/"), TargetSpecError::Url(_)));
        assert!(refused(&format!("/{}", "x".repeat(200))).to_string().contains("107 bytes"));
    }
}

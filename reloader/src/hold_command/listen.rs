//! Parses `--listen`. What cannot be held is refused with a sentence for the operator. Pure, apart from the resolution of names.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};

/// One `--listen`, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `:PORT` and `*:PORT`: every address of both families.
    EveryAddress(u16),
    /// An address, or all that a name stands for.
    OneOf(Vec<SocketAddr>),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::EveryAddress(port) => write!(f, ":{port}"),
            Listen::OneOf(addresses) => {
                let words: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
                write!(f, "{}", words.join(" or "))
            }
        }
    }
}

/// Why a `--listen` cannot be held.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// The argument is a unix socket.
    #[error(
        "--listen {0}: a unix socket has no SYNs to hold. Let the server bind a new path and rename it over the old one: \
         clients then find either"
    )]
    Unix(String),
    /// The argument asks for UDP.
    #[error("--listen {0}: only TCP has SYNs to hold")]
    Udp(String),
    /// The argument has no port, or an invalid one.
    #[error("--listen {0}: there is no port in it; write ADDR:PORT, [ADDR]:PORT for IPv6, or :PORT for every address")]
    Port(String),
    /// The argument is a range of ports.
    #[error("--listen {0}: a range of ports is not understood; repeat --listen for each port")]
    Range(String),
    /// An IPv6 address without brackets.
    #[error("--listen {0}: write IPv6 addresses in brackets: [ADDR]:PORT")]
    Brackets(String),
    /// A name that does not resolve.
    #[error("--listen {name}: the name cannot be resolved: {reason}")]
    Unknown {
        /// The argument.
        name: String,
        /// What the resolver says.
        reason: String,
    },
}

/// Parses one.
///
/// # Errors
/// Where it is not a TCP address.
pub fn parse(text: &str) -> Result<Listen, ListenError> {
    let own = || text.to_owned();
    if text.starts_with('/') || text.starts_with("unix@") || text.starts_with("abns@") {
        return Err(ListenError::Unix(own()));
    }
    if ["udp@", "udp4@", "udp6@", "quic4@", "quic6@"].iter().any(|prefix| text.starts_with(prefix)) {
        return Err(ListenError::Udp(own()));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| ListenError::Port(own()))?;
    if port.contains('-') {
        return Err(ListenError::Range(own()));
    }
    let is_number = port.bytes().all(|letter| letter.is_ascii_digit()) && !host.contains('/');
    let port =
        port.parse().ok().filter(|port: &u16| is_number && *port != 0).ok_or_else(|| ListenError::Port(own()))?;
    match host {
        "" | "*" => Ok(Listen::EveryAddress(port)),
        host if host.contains(':') && !host.starts_with('[') => Err(ListenError::Brackets(own())),
        _ => resolve(text).map(Listen::OneOf),
    }
}

fn resolve(text: &str) -> Result<Vec<SocketAddr>, ListenError> {
    let unknown = |reason: String| ListenError::Unknown { name: text.to_owned(), reason };
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in text.to_socket_addrs().map_err(|error| unknown(error.to_string()))? {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    if found.is_empty() { Err(unknown("it has no address".into())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_parsed() {
        let one = |address: &str| Listen::OneOf(vec![address.parse().unwrap()]);
        for text in ["127.0.0.1:80", "[::1]:80", "[::]:80", "0.0.0.0:80"] {
            assert_eq!(parse(text), Ok(one(text)));
        }
        assert_eq!((parse(":80"), parse("*:80")), (Ok(Listen::EveryAddress(80)), Ok(Listen::EveryAddress(80))));
        let Ok(Listen::OneOf(local)) = parse("localhost:80") else { panic!("a name has addresses") };
        assert!(local.iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn address_that_cannot_be_held_is_refused_with_the_reason() {
        let refused = |text: &str| parse(text).unwrap_err();
        assert!(matches!(refused("/run/app.sock"), ListenError::Unix(_)));
        assert!(matches!(refused("unix@/run/app.sock"), ListenError::Unix(_)));
        assert!(matches!(refused("abns@app"), ListenError::Unix(_)));
        assert!(matches!(refused("udp@:53"), ListenError::Udp(_)));
        assert!(matches!(refused("127.0.0.1"), ListenError::Port(_)));
        assert!(matches!(refused("127.0.0.1:0"), ListenError::Port(_)));
        assert!(matches!(refused("127.0.0.1:http"), ListenError::Port(_)));
        assert!(matches!(refused("127.0.0.1:80-90"), ListenError::Range(_)));
        assert!(matches!(refused("::1:80"), ListenError::Brackets(_)));
        assert!(matches!(refused("no-such-host.invalid:80"), ListenError::Unknown { .. }));
        assert!(refused("127.0.0.1").to_string().contains("ADDR:PORT"));
    }
}

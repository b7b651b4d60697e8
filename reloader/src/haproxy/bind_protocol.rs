//! Tells from the `bind` lines of a configuration which ports are bound, and whether a listener is to speak Multipath TCP. Pure.
//!
//! HAProxy takes over a socket of the same address and does not compare the protocol (`sock_find_compatible_fd`), so a bind that changes between
//! `mptcp@` and TCP would keep its old socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::scan::Source;
use super::words::words;

/// The TCP binds of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BindProtocols(Vec<TcpBind>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct TcpBind {
    mptcp: bool,
    /// `None` for a name or a variable, which may stand for any address.
    host: Option<IpAddr>,
    ports: (u16, u16),
}

impl BindProtocols {
    /// Reads the `bind` lines.
    pub fn from_sources(sources: &[Source]) -> BindProtocols {
        let mut binds = Vec::new();
        for (_, text) in sources {
            for line in String::from_utf8_lossy(text).lines() {
                if let [first, addresses, ..] = &words(line)[..]
                    && first == "bind"
                {
                    binds.extend(addresses.split(',').filter_map(tcp_bind));
                }
            }
        }
        BindProtocols(binds)
    }

    /// The ports of these binds.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.0.iter().flat_map(|bind| bind.ports.0..=bind.ports.1)
    }

    /// Whether the listener at `address` is to speak Multipath TCP. `None` where the lines do not tell: there is no such bind, or several that
    /// differ.
    pub fn speaks_mptcp(&self, address: SocketAddr) -> Option<bool> {
        let is_at = |bind: &&TcpBind| {
            (bind.ports.0..=bind.ports.1).contains(&address.port()) && bind.host.is_none_or(|host| host == address.ip())
        };
        let mut found = self.0.iter().filter(is_at).map(|bind| bind.mptcp);
        let first = found.next()?;
        found.all(|other| other == first).then_some(first)
    }
}

/// `None` for an address of another kind, and for one without a port.
fn tcp_bind(address: &str) -> Option<TcpBind> {
    let (family, rest) = address.split_once('@').unwrap_or(("", address));
    let mptcp = match family {
        "mptcp" | "mptcp4" | "mptcp6" => true,
        "" | "tcp" | "tcp4" | "tcp6" | "ipv4" | "ipv6" | "stream+ipv4" | "stream+ipv6" => false,
        _ => return None,
    };
    let (host, ports) = rest.rsplit_once(':')?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let host = match host.trim_start_matches('[').trim_end_matches(']') {
        // With the family of IPv6 an empty host stands for `::`. It is left open.
        "" | "*" if family.ends_with('6') => None,
        "" | "*" => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        text => text.parse().ok(),
    };
    Some(TcpBind { mptcp, host, ports: (first.parse().ok()?, last.parse().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speaks(text: &str, address: &str) -> Option<bool> {
        BindProtocols::from_sources(&[("a.cfg".into(), text.into())]).speaks_mptcp(address.parse().unwrap())
    }

    #[test]
    fn protocol_follows_from_the_bind_of_the_address() {
        assert_eq!(speaks("bind mptcp@127.0.0.1:80", "127.0.0.1:80"), Some(true));
        assert_eq!(speaks("bind mptcp@:80", "0.0.0.0:80"), Some(true));
        assert_eq!(speaks("bind 127.0.0.1:80 ssl", "127.0.0.1:80"), Some(false));
        assert_eq!(speaks("bind mptcp6@[::1]:8000-8009", "[::1]:8005"), Some(true));
        assert_eq!(speaks("bind :80,mptcp@:81", "0.0.0.0:81"), Some(true));
        assert_eq!(speaks("bind *:80\nbind mptcp@10.0.0.1:80", "10.0.0.1:80"), Some(true));
    }

    #[test]
    fn ports_are_those_of_tcp_binds() {
        let text =
            "bind :80,10.0.0.1:81 ssl\nbind [::1]:8000-8002\nbind quic4@:443\nbind /run/a.sock\nbind :\"${PORT}\"";
        let ports = BindProtocols::from_sources(&[("a.cfg".into(), text.into())]).ports().collect::<Vec<_>>();
        assert_eq!(ports, [80, 81, 8000, 8001, 8002]);
    }

    #[test]
    fn nothing_is_said_of_other_addresses_and_of_lines_that_differ() {
        assert_eq!(speaks("bind mptcp@127.0.0.1:80", "127.0.0.1:81"), None);
        assert_eq!(speaks("bind quic4@:443", "0.0.0.0:443"), None);
        assert_eq!(speaks("bind mptcp@\"${HOST}\":80\nbind 127.0.0.1:80", "127.0.0.1:80"), None);
        assert_eq!(speaks("# bind mptcp@:80", "0.0.0.0:80"), None);
        assert_eq!(speaks("bind /run/a.sock", "0.0.0.0:80"), None);
    }
}

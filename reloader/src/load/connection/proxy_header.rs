//! The PROXY header of a connection.

use socket2::SockAddr;

/// The line with which a proxy begins a connection (doc/proxy-protocol.txt of HAProxy, section 2.1).
pub(super) fn proxy_header(from: &SockAddr, to: &SockAddr) -> String {
    match (from.as_socket(), to.as_socket()) {
        (Some(from), Some(to)) => {
            let family = if to.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port())
        }
        _ => "PROXY UNKNOWN\r\n".into(),
    }
}

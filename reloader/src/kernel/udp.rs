//! Lists UDP sockets from /proc/net. sock_diag(7) needs the module udp_diag for that, which a machine may not have.

use std::collections::HashSet;
use std::io;
use std::ops::RangeInclusive;

/// The inodes of the UDP sockets of the calling thread's network namespace that are bound but not connected. A socket that has
/// sent a packet is bound too.
///
/// # Errors
/// Where the files in /proc cannot be read.
pub(crate) fn unconnected_inodes() -> io::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    for family in ["udp", "udp6"] {
        // /proc/thread-self came with Linux 3.17.
        let path = format!("/proc/self/task/{}/net/{family}", rustix::thread::gettid());
        match std::fs::read_to_string(path) {
            Ok(table) => found.extend(table.lines().filter_map(inode)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The ports from which the kernel chooses one for a socket that is bound to none (ip_local_port_range of ip(7)), in the calling thread's network
/// namespace. The kernel's default where it cannot be read.
pub(crate) fn ephemeral_ports() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ports = text.split_whitespace().map_while(|port| port.parse().ok());
    ports.next().unwrap_or(32768)..=ports.next().unwrap_or(60999)
}

/// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …`
fn inode(line: &str) -> Option<u64> {
    /// TCP_CLOSE, in hexadecimal digits (net/tcp_states.h).
    const UNCONNECTED: &str = "07";
    let mut words = line.split_whitespace().skip(3);
    (words.next()? == UNCONNECTED).then(|| words.nth(5)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn udp_socket_is_listed_until_it_is_connected() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(socket.as_fd()).unwrap().st_ino;
        assert!(unconnected_inodes().unwrap().contains(&inode));
        socket.connect("127.0.0.1:9").unwrap();
        assert!(!unconnected_inodes().unwrap().contains(&inode));
    }
}

//! SYN cookies: handshakes that the kernel keeps no record of.

use std::fs;
use std::io::ErrorKind;

/// What is known of SYN cookies in the calling thread's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynCookies {
    /// `tcp_syncookies` is 2: every handshake is one.
    pub always: bool,
    /// How many were sent since the namespace exists.
    pub sent: u64,
}

impl SynCookies {
    /// Reads both; `None` where the kernel does not tell.
    pub fn now() -> Option<SynCookies> {
        let always = match fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies") {
            Ok(text) => text.trim() == "2",
            // A kernel without SYN cookies has no such file.
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(_) => return None,
        };
        // /proc/thread-self came with Linux 3.17.
        let netstat = format!("/proc/self/task/{}/net/netstat", rustix::thread::gettid());
        Some(SynCookies { always, sent: sent(&fs::read_to_string(netstat).ok()?)? })
    }
}

/// A line of names, then a line of figures.
fn sent(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, figures) = (lines.next()?, lines.next()?);
    let (_, figure) = names.split(' ').zip(figures.split(' ')).find(|(name, _)| *name == "SyncookiesSent")?;
    figure.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_is_found_by_its_name() {
        assert_eq!(sent("TcpExt: A SyncookiesSent B\nTcpExt: 1 42 3\nIpExt: X\nIpExt: 9\n"), Some(42));
        assert_eq!(sent("TcpExt: A\nTcpExt: 1\n"), None);
    }

    #[test]
    fn this_kernel_tells() {
        assert!(SynCookies::now().is_some());
    }
}

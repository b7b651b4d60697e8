//! SYN cookies: handshakes that the kernel keeps no record of.

use std::fs;
use std::io::ErrorKind;

use super::netstat;

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
        let [sent] = netstat::tcp(["SyncookiesSent"])?;
        Some(SynCookies { always, sent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_tells() {
        assert!(SynCookies::now().is_some());
    }
}

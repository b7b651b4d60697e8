//! Reads the state of SYN cookies: handshakes of which the kernel keeps no record.

use std::fs;
use std::io::ErrorKind;

use super::netstat::tcp_counters;

/// The state of SYN cookies in the calling thread's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynCookies {
    /// `tcp_syncookies` is 2: every handshake uses a cookie.
    pub always: bool,
    /// Cookies sent since the namespace exists.
    pub sent: u64,
}

impl SynCookies {
    /// Reads both; `None` where one of the files in /proc cannot be read.
    pub fn read() -> Option<SynCookies> {
        let always = match fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies") {
            Ok(text) => text.trim() == "2",
            // A kernel without SYN cookies has no such file.
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(_) => return None,
        };
        let [sent] = tcp_counters(["SyncookiesSent"])?;
        Some(SynCookies { always, sent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_can_be_read_on_this_kernel() {
        assert!(SynCookies::read().is_some());
    }
}

//! Reads the TCP counters of a network namespace, which `nstat` shows (/proc/net/netstat).

use std::fs;

/// Reads the counters with these names. They count events in the calling thread's network namespace, since its creation. `None` if the kernel
/// lacks one of them.
pub(crate) fn tcp_counters<const N: usize>(names: [&str; N]) -> Option<[u64; N]> {
    // Not by /proc/thread-self, which exists only since Linux 3.17.
    let path = format!("/proc/self/task/{}/net/netstat", rustix::thread::gettid());
    values(&fs::read_to_string(path).ok()?, names)
}

/// `netstat` has a line of names, then a line of values.
fn values<const N: usize>(netstat: &str, names: [&str; N]) -> Option<[u64; N]> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (all_names, all_values) = (lines.next()?, lines.next()?);
    let value = |name: &str| {
        let mut pairs = all_names.split(' ').zip(all_values.split(' '));
        pairs.find(|(candidate, _)| *candidate == name)?.1.parse().ok()
    };
    let mut found = [0; N];
    for (slot, name) in found.iter_mut().zip(names) {
        *slot = value(name)?;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_names() {
        let text = "TcpExt: A SyncookiesSent B\nTcpExt: 1 42 3\nIpExt: X\nIpExt: 9\n";
        assert_eq!(values(text, ["B", "SyncookiesSent"]), Some([3, 42]));
        assert_eq!(values(text, ["A", "X"]), None);
        assert_eq!(values("TcpExt: A\nTcpExt: 1\n", ["B"]), None);
    }
}

//! What TCP counts in a network namespace, as `nstat` shows it (/proc/net/netstat).

use std::fs;

/// The figures with these names of the calling thread's network namespace, since it exists; `None` where the kernel does not tell
/// one of them.
pub(crate) fn tcp<const N: usize>(names: [&str; N]) -> Option<[u64; N]> {
    // /proc/thread-self came with Linux 3.17.
    let path = format!("/proc/self/task/{}/net/netstat", rustix::thread::gettid());
    named(&fs::read_to_string(path).ok()?, names)
}

/// A line of names, then a line of figures.
fn named<const N: usize>(netstat: &str, names: [&str; N]) -> Option<[u64; N]> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (known, figures) = (lines.next()?, lines.next()?);
    let figure = |name: &str| {
        let (_, figure) = known.split(' ').zip(figures.split(' ')).find(|(known, _)| *known == name)?;
        figure.parse().ok()
    };
    let mut found = [0; N];
    for (place, name) in found.iter_mut().zip(names) {
        *place = figure(name)?;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_their_names() {
        let text = "TcpExt: A SyncookiesSent B\nTcpExt: 1 42 3\nIpExt: X\nIpExt: 9\n";
        assert_eq!(named(text, ["B", "SyncookiesSent"]), Some([3, 42]));
        assert_eq!(named(text, ["A", "X"]), None);
        assert_eq!(named("TcpExt: A\nTcpExt: 1\n", ["B"]), None);
    }
}

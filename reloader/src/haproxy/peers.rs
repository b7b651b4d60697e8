//! Reads from `show peers` whether a HAProxy has finished learning its stick tables from its predecessor.

/// How far the resynchronisation of the peers sections is. A later variant is less far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resync {
    /// No peers section has a local peer, so stick tables are not handed over.
    NoLocalPeer,
    /// All sections have finished.
    Finished,
    /// A section has learned nothing from a predecessor so far. From 3.0 on HAProxy reports this state as finished too.
    Untaught,
    /// A section is still learning. After a reload now, the stick tables of the next generation would be empty.
    Running,
}

/// PEERS_F_RESYNC_LOCAL_FINISHED | PEERS_F_RESYNC_REMOTE_FINISHED (`include/haproxy/peers-t.h`, 2.2 to 3.2).
///
/// Started without `-sf` and without a remote peer, 2.2 to 2.8 set the second flag after 5 s. Until then, 2.6 and 2.8 teach their successor
/// nothing (measured). From 3.0 on both flags are set from the beginning.
const RESYNC_FINISHED: u64 = 0x3;

/// Reads the answer to `show peers`. Returns the state of the section that is the least advanced.
pub fn resync(answer: &str) -> Resync {
    let mut state = Resync::NoLocalPeer;
    let mut section_finished = false;
    for line in answer.lines() {
        if line.contains(" id=") && line.contains("resync_timeout=") {
            let flags =
                value(line, "flags=").and_then(|flags| u64::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
            section_finished = flags.is_some_and(|flags| flags & RESYNC_FINISHED == RESYNC_FINISHED);
        } else if line.contains("(local,") {
            state = state.max(section(section_finished, line));
        }
    }
    state
}

/// The state of one section. The predecessor connects to the local peer, and keeps the connection until it has taught all its entries.
/// `show peers` shows this connection as `active`.
fn section(finished: bool, local_peer: &str) -> Resync {
    if !finished || local_peer.contains("(local,active)") {
        return Resync::Running;
    }
    match value(local_peer, "last_status=") {
        Some("NONE") => Resync::Untaught,
        _ => Resync::Finished,
    }
}

fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(flags: &str, peer: &str, status: &str) -> String {
        format!(
            "0x5561: [22/Nov/2026:07:21:51] id=p disabled=0 flags={flags} resync_timeout=4s task_calls=1\n  \
             0x5562: id=me({peer}) addr=127.0.0.1:1 last_status={status} last_hdshk=1s\n        flags=0x0\n"
        )
    }

    #[test]
    fn a_section_is_finished_when_local_and_remote_are() {
        for running in ["0x1", "0x11"] {
            assert_eq!(resync(&section(running, "local,inactive", "ESTA")), Resync::Running);
        }
        for finished in ["0x3", "0x33", "0x1103", "0x300003"] {
            assert_eq!(resync(&section(finished, "local,inactive", "ESTA")), Resync::Finished);
        }
        assert_eq!(resync(&section("0x11", "remote,inactive", "NONE")), Resync::NoLocalPeer);
        assert_eq!(resync(""), Resync::NoLocalPeer);
    }

    #[test]
    fn from_3_0_on_the_connection_of_the_predecessor_tells() {
        assert_eq!(resync(&section("0x300003", "local,inactive", "NONE")), Resync::Untaught);
        assert_eq!(resync(&section("0x300003", "local,active", "ESTA")), Resync::Running);
    }

    #[test]
    fn one_running_section_is_enough() {
        let [running, finished] = ["0x11", "0x33"].map(|flags| section(flags, "local,inactive", "ESTA"));
        assert_eq!(resync(&format!("{running}{finished}")), Resync::Running);
        assert_eq!(resync(&format!("{finished}{running}")), Resync::Running);
    }
}

//! Whether a HAProxy has finished learning its stick tables from its predecessor, read from `show peers`.

/// How far the local peers sections are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resync {
    /// No peers section with a local peer: stick tables are not handed over at all.
    NoLocalPeer,
    /// A section is still learning: a reload now would leave its successor empty.
    Running,
    /// All sections have finished.
    Finished,
}

/// PEERS_F_RESYNC_LOCAL_FINISHED | PEERS_F_RESYNC_REMOTE_FINISHED (`include/haproxy/peers-t.h`, 1.8 to 3.2).
const RESYNC_FINISHED: u64 = 0x3;

/// Reads the answer to `show peers`.
pub fn resync(answer: &str) -> Resync {
    let mut state = Resync::NoLocalPeer;
    let mut section_finished = false;
    for line in answer.lines() {
        if line.contains(" id=") && line.contains("resync_timeout=") {
            let flags =
                value(line, "flags=").and_then(|flags| u64::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
            section_finished = flags.is_some_and(|flags| flags & RESYNC_FINISHED == RESYNC_FINISHED);
        } else if line.contains("(local") {
            state = match (state, section_finished) {
                (Resync::Running, _) | (_, false) => Resync::Running,
                _ => Resync::Finished,
            };
        }
    }
    state
}

fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(flags: &str, peer: &str) -> String {
        format!(
            "0x5561: [22/Nov/2026:07:21:51] id=p disabled=0 flags={flags} resync_timeout=4s task_calls=1\n  0x5562: id=me({peer},inactive) addr=127.0.0.1:1\n        flags=0x0\n"
        )
    }

    #[test]
    fn a_section_is_finished_when_local_and_remote_are() {
        assert_eq!(resync(&section("0x11", "local")), Resync::Running);
        assert_eq!(resync(&section("0x33", "local")), Resync::Finished);
        assert_eq!(resync(&section("0x11", "remote")), Resync::NoLocalPeer);
        assert_eq!(resync(""), Resync::NoLocalPeer);
    }

    #[test]
    fn one_running_section_is_enough() {
        assert_eq!(resync(&(section("0x11", "local") + &section("0x33", "local"))), Resync::Running);
        assert_eq!(resync(&(section("0x33", "local") + &section("0x11", "local"))), Resync::Running);
    }
}

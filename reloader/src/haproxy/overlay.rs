//! Writes the daemon's own configuration file. HAProxy reads it after the user's files, and merges all `global` sections.

use std::path::Path;

use super::scan::{Facts, StatsMaxconn};
use super::version::Version;

/// HAProxy's default of `stats maxconn` (`cli.c`).
const DEFAULT_STATS_MAXCONN: u32 = 10;

/// How many CLI connections the daemon adds to the limit. The limit is one for all stats sockets together. Without the addition, ten idle
/// clients on the user's stats socket would keep the daemon out of its own.
const OWN_STATS_CONNECTIONS: u32 = 16;

/// The text of the daemon's configuration file for one generation.
pub fn overlay(private_socket: &Path, facts: &Facts, version: Version, close_spread_time: Option<&str>) -> String {
    let socket = as_word(&private_socket.display().to_string());
    let expose = if version.passes_sockets() { " expose-fd listeners" } else { "" };
    let mut text = format!(
        "# Written by reloader for one generation.\n\
         global\n    stats socket {socket} mode 600 level admin{expose}\n"
    );
    let users_limit = match facts.stats_maxconn {
        StatsMaxconn::Default => Some(DEFAULT_STATS_MAXCONN),
        StatsMaxconn::Set(limit) => Some(limit),
        // A `stats maxconn` from the daemon could lower the user's limit.
        StatsMaxconn::Unreadable => None,
    };
    if let Some(limit) = users_limit {
        text.push_str(&format!("    stats maxconn {}\n", limit.saturating_add(OWN_STATS_CONNECTIONS)));
    }
    if let Some(time) = close_spread_time.filter(|_| version.spreads_closing() && !facts.close_spread_time) {
        text.push_str(&format!("    close-spread-time {time}\n"));
    }
    text
}

/// The text as one word of a configuration, quoted where it has to be: HAProxy before 1.6 takes quotes for a part of the word.
fn as_word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-@:+".contains(letter);
    if text.chars().all(is_plain) { text.to_owned() } else { quoted(text) }
}

/// The text as one word of a configuration, in quotes.
pub(super) fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .flat_map(|character| matches!(character, '"' | '\\' | '$').then_some('\\').into_iter().chain([character]))
        .collect();
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(facts: &Facts, minor: u32) -> String {
        overlay(Path::new("/run/r/generation-1.sock"), facts, Version { major: 2, minor }, Some("2s"))
    }

    #[test]
    fn path_is_quoted_only_where_it_has_to_be() {
        assert!(text(&Facts::default(), 6).contains("stats socket /run/r/generation-1.sock mode 600"));
        let odd = overlay(Path::new("/run/a b/$c.sock"), &Facts::default(), Version { major: 2, minor: 6 }, None);
        assert!(odd.contains("stats socket \"/run/a b/\\$c.sock\" mode 600"), "{odd}");
    }

    #[test]
    fn the_users_limit_is_kept_and_ours_added() {
        assert!(text(&Facts::default(), 6).contains("stats maxconn 26\n"));
        assert!(
            text(&Facts { stats_maxconn: StatsMaxconn::Set(100), ..Facts::default() }, 6)
                .contains("stats maxconn 116\n")
        );
    }

    #[test]
    fn a_limit_that_only_haproxy_can_read_is_left_alone() {
        let facts = Facts { stats_maxconn: StatsMaxconn::Unreadable, ..Facts::default() };
        assert!(!text(&facts, 6).contains("maxconn"));
    }

    #[test]
    fn close_spread_time_is_written_if_supported_and_not_set_by_the_user() {
        assert!(text(&Facts::default(), 6).contains("close-spread-time 2s\n"));
        assert!(!text(&Facts::default(), 2).contains("close-spread-time"));
        assert!(!text(&Facts { close_spread_time: true, ..Facts::default() }, 6).contains("close-spread-time"));
    }
}

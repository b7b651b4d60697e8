//! Puts the state of a service into sentences, for `status` and for the service manager. Pure: each sentence is true in each state for which it is
//! made. The list is in docs/internals/messages.md.

use std::time::Duration;

use crate::sockets::reachability::Unreachable;

/// Why a service has no serving generation, as far as its kind decides what can be said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Unserved {
    /// The daemon runs the server, and none serves.
    #[default]
    Nothing,
    /// A server runs that could not be adopted.
    NotAdopted,
    /// HAProxy belongs to its own unit. It may serve without being followed.
    NotFollowed,
}

impl Unserved {
    pub(super) fn new(owns_lifecycle: bool, adoption_is_blocked: bool) -> Unserved {
        match (owns_lifecycle, adoption_is_blocked) {
            (false, _) => Unserved::NotFollowed,
            (true, true) => Unserved::NotAdopted,
            (true, false) => Unserved::Nothing,
        }
    }

    /// The state in words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Unserved::Nothing => "nothing serves",
            Unserved::NotAdopted => "the server that runs was not adopted",
            Unserved::NotFollowed => "no worker of HAProxy is followed",
        }
    }

    /// The warning that the ports are refused. A generation that `starts` may listen already, or SYNs are held for it, and clients of sockets in
    /// custody wait.
    pub(super) fn refused_ports(self, has_custody: bool, starts: bool) -> Option<&'static str> {
        let is_known = self == Unserved::Nothing && !has_custody && !starts;
        is_known.then_some("nothing serves, and nothing is in custody: the ports are refused")
    }
}

/// The warning about many draining generations, with the keys that limit them in this mode.
pub(super) fn many_draining(count: usize, owns_lifecycle: bool) -> String {
    let remedy = match owns_lifecycle {
        true => "see hard-stop-after and max-draining",
        false => "see hard-stop-after and mworker-max-reloads in the global section of HAProxy's configuration",
    };
    format!("{count} generations are draining: long connections keep them; {remedy}")
}

/// What makes listeners reachable again, that are unreachable for these reasons.
pub(super) fn reachability_remedy<'a>(owns_lifecycle: bool, whys: impl Iterator<Item = &'a Unreachable>) -> String {
    if !owns_lifecycle {
        return "HAProxy may pass the same socket to its next worker: restart its unit if a reload does not help"
            .into();
    }
    let mut remedies: Vec<&str> = whys.map(Unreachable::remedy).collect();
    remedies.sort_unstable();
    remedies.dedup();
    remedies.join("; ")
}

/// The next start, by a reload, has less time than a start took. `None` if it has enough.
pub(super) fn slow_start(took: Duration, limit: Duration) -> Option<String> {
    (took > limit).then(|| {
        format!(
            "the last start took {:.1} s, and a reload allows {} (start-timeout): the next reload would fail; raise start-timeout",
            took.as_secs_f64(),
            humantime::format_duration(limit)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_called_refused_only_where_no_process_can_have_them() {
        let refused = |unserved: Unserved, custody, starts| unserved.refused_ports(custody, starts).is_some();
        assert!(refused(Unserved::new(true, false), false, false));
        // Clients wait, SYNs are held, another server has the ports, or HAProxy's own unit decides.
        assert!(!refused(Unserved::new(true, false), true, false));
        assert!(!refused(Unserved::new(true, false), false, true));
        assert!(!refused(Unserved::new(true, true), false, false));
        assert!(!refused(Unserved::new(false, false), false, false));
    }

    #[test]
    fn only_a_server_of_the_daemon_is_said_not_to_serve() {
        assert_eq!(Unserved::new(true, false).words(), "nothing serves");
        for other in [Unserved::new(true, true), Unserved::new(false, false)] {
            assert!(!other.words().contains("nothing serves"), "{other:?}");
        }
    }

    #[test]
    fn remedies_exist_in_the_mode_in_which_they_are_given() {
        // Companion mode refuses these keys of reloader, and does not bind sockets.
        assert!(many_draining(8, true).ends_with("see hard-stop-after and max-draining"));
        assert!(many_draining(8, false).ends_with("in the global section of HAProxy's configuration"));
        let whys = [Unreachable::DeviceGone("d0".into()), Unreachable::PathGone("/a".into())];
        assert!(!reachability_remedy(false, whys.iter()).contains("binds it again"));
        let both = reachability_remedy(true, whys.iter());
        assert_eq!(both, "a reload binds it again; once that is there again, a reload binds it again");
    }

    #[test]
    fn slow_start_is_a_warning_as_long_as_the_limit_is_shorter() {
        let took = Duration::from_millis(38_400);
        let warning = slow_start(took, Duration::from_secs(30)).unwrap();
        assert!(
            warning.starts_with("the last start took 38.4 s, and a reload allows 30s (start-timeout)"),
            "{warning}"
        );
        assert_eq!(slow_start(took, Duration::from_secs(60)), None);
    }
}

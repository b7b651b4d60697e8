//! Decides which signals an operator may send to the processes of a server. Pure.

use rustix::process::Signal;

use crate::config::Stop;

/// Why this signal is not sent: it would end the server, or stop it. `stop` is how the server is asked to end; `None` for HAProxy.
pub(super) fn refusal(signal: Signal, stop: Option<&Stop>, owns_lifecycle: bool) -> Option<&'static str> {
    // A master reloads by SIGHUP too (`mworker_catch_sighup`), and SIGTTOU pauses listeners (`sig_pause`), which are shared.
    let changes_haproxy = [Signal::USR1, Signal::HUP, Signal::TTOU, Signal::TTIN];
    if [Signal::KILL, Signal::TERM, Signal::INT, Signal::ABORT].contains(&signal) {
        return Some(match owns_lifecycle {
            true => "it ends the server: use `reloader reload` or `reloader stop`",
            false => "it ends HAProxy: use `reloader reload`, or stop HAProxy's unit",
        });
    }
    if [Signal::STOP, Signal::TSTP].contains(&signal) {
        return Some("it stops the server, and its clients would hang");
    }
    // nginx starts another copy of itself by SIGUSR2, and ends its workers by SIGWINCH.
    if [Signal::USR2, Signal::WINCH].contains(&signal) {
        return Some("servers stop accepting, or start another copy of themselves by it: use `reloader reload`");
    }
    match stop {
        None if changes_haproxy.contains(&signal) => {
            Some("HAProxy may stop listening, or reload by itself: use `reloader reload`")
        }
        Some(Stop::Signal(own)) if *own == signal => {
            Some("by this signal the server is asked to end (`stop`): use `reloader reload` or `reloader stop`")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_end_a_server_are_refused() {
        let quit = Stop::Signal(Signal::QUIT);
        assert!(refusal(Signal::QUIT, Some(&quit), true).is_some() && refusal(Signal::QUIT, None, true).is_none());
        assert!(refusal(Signal::USR1, None, true).is_some() && refusal(Signal::USR1, Some(&quit), true).is_none());
        for signal in [Signal::KILL, Signal::TERM, Signal::STOP] {
            assert!(refusal(signal, None, true).is_some() && refusal(signal, Some(&quit), true).is_some());
        }
        assert!(refusal(Signal::USR2, None, true).is_some() && refusal(Signal::WINCH, Some(&quit), true).is_some());
        assert!(refusal(Signal::HUP, None, true).is_some() && refusal(Signal::HUP, Some(&quit), true).is_none());
    }

    #[test]
    fn companion_is_not_stopped_by_the_daemon() {
        assert!(refusal(Signal::TERM, None, true).unwrap().contains("reloader stop"));
        assert!(!refusal(Signal::TERM, None, false).unwrap().contains("reloader stop"));
    }
}

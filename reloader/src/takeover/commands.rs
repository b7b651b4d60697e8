//! Decides which commands of a unit stay when reloader takes it over. Pure.

/// What a line of `ExecStartPre=` or `ExecReload=` is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// HAProxy checks its configuration: reloader does that before it starts a generation.
    Check,
    /// HAProxy is reloaded, by a signal to its master or by a new process: reloader reloads instead.
    Signal,
    /// The operator's own command, which is run as it is written.
    Own,
}

/// The command of each line that is in force after a takeover. `lines` are the values of `ExecReload=`. Reloader's own commands take the place
/// of the first check and of the first signal.
pub(super) fn reload_commands(lines: &[String], reloader: &str) -> Vec<String> {
    let check = format!("{reloader} check --for-reload");
    let reload = format!("{reloader} reload --timeout 80s");
    let mut commands: Vec<String> = Vec::new();
    for line in lines {
        match purpose_of(line) {
            Purpose::Own => commands.push(line.clone()),
            Purpose::Check if !commands.contains(&check) => commands.push(check.clone()),
            Purpose::Signal if !commands.contains(&reload) => commands.push(reload.clone()),
            Purpose::Check | Purpose::Signal => {}
        }
    }
    let place = commands.iter().position(|command| *command == reload).unwrap_or_else(|| {
        commands.push(reload);
        commands.len() - 1
    });
    if !commands[..place].contains(&check) {
        commands.retain(|command| *command != check);
        let place = place.min(commands.len() - 1);
        commands.insert(place, check);
    }
    commands
}

/// The lines of `ExecStartPre=` that stay: all but checks, which the daemon makes unnecessary. HAProxy serves while the daemon starts.
pub(super) fn start_pre_commands(lines: &[String]) -> Vec<String> {
    lines.iter().filter(|line| purpose_of(line) != Purpose::Check).cloned().collect()
}

/// Tells what a line is for. A line that does more than one thing is the operator's own.
pub(super) fn purpose_of(line: &str) -> Purpose {
    // Prefixes of systemd.service(5).
    let command = line.trim_start_matches(['@', '-', ':', '+', '!', '|']);
    let words: Vec<&str> = command.split_whitespace().collect();
    let Some((program, arguments)) = words.split_first() else { return Purpose::Own };
    let name = program.rsplit('/').next().unwrap_or_default();
    let is_shell = line.contains([';', '&', '|', '`']) || line.contains("$(");
    match name {
        "haproxy" if arguments.contains(&"-c") && !is_shell => Purpose::Check,
        // It would start a HAProxy beside that of the daemon.
        "haproxy" if arguments.iter().any(|word| ["-sf", "-st"].contains(word)) => Purpose::Signal,
        "kill" if signals_the_master(arguments) => Purpose::Signal,
        // Without a master, HAProxy dies of SIGUSR2.
        "pkill" | "killall" if signals_by_name(arguments) => Purpose::Signal,
        _ => Purpose::Own,
    }
}

/// `-USR2 haproxy`, `-x --signal HUP haproxy`.
fn signals_by_name(arguments: &[&str]) -> bool {
    arguments.iter().any(is_reload_signal) && arguments.iter().any(|word| word.rsplit('/').next() == Some("haproxy"))
}

fn is_reload_signal(word: &&str) -> bool {
    let signal = word.trim_start_matches("--signal=").trim_start_matches('-').trim_start_matches("SIG");
    ["USR2", "HUP", "12", "1"].contains(&signal)
}

/// `-USR2 $MAINPID`, `-s HUP ${MAINPID}`, `-SIGUSR2 $(cat /run/haproxy.pid)`.
fn signals_the_master(arguments: &[&str]) -> bool {
    let names_it = |word: &&str| word.contains("MAINPID") || word.contains("PIDFILE") || word.contains(".pid");
    arguments.iter().any(is_reload_signal) && arguments.iter().any(names_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn each_line_is_classified() {
        for line in ["/usr/sbin/haproxy -Ws -f $CONFIG -c $EXTRAOPTS", "-/usr/sbin/haproxy -f $CONFIG -c -q $EXTRAOPTS"]
        {
            assert_eq!(purpose_of(line), Purpose::Check, "{line}");
        }
        for line in ["/bin/kill -USR2 $MAINPID", "kill -s HUP ${MAINPID}", "/bin/kill -SIGUSR2 $PIDFILE"] {
            assert_eq!(purpose_of(line), Purpose::Signal, "{line}");
        }
        for line in [
            "/usr/sbin/haproxy -D -f $CONFIG -p $PIDFILE -x /run/haproxy/admin.sock -sf $MAINPID",
            "/usr/bin/pkill -USR2 -x haproxy",
            "+/usr/bin/killall --signal=SIGUSR2 /usr/sbin/haproxy",
        ] {
            assert_eq!(purpose_of(line), Purpose::Signal, "{line}");
        }
        for line in [
            "/usr/bin/pkill -USR1 haproxy",
            "/usr/bin/pkill -HUP rsyslogd",
            "/usr/local/bin/dump-state",
            "/bin/sh -c 'haproxy -c -f /a && touch /b'",
            "/bin/kill -USR1 $MAINPID",
            "/bin/kill -HUP 1234",
            "/usr/sbin/haproxy -vv",
        ] {
            assert_eq!(purpose_of(line), Purpose::Own, "{line}");
        }
    }

    #[test]
    fn own_commands_stay_in_their_place() {
        let stock = owned(&["/usr/sbin/haproxy -Ws -f $CONFIG -c $EXTRAOPTS", "/bin/kill -USR2 $MAINPID"]);
        assert_eq!(reload_commands(&stock, "/r"), ["/r check --for-reload", "/r reload --timeout 80s"]);
        let own = owned(&["/a", "/usr/sbin/haproxy -c -f x", "/b", "/bin/kill -USR2 $MAINPID", "/c"]);
        assert_eq!(reload_commands(&own, "/r"), ["/a", "/r check --for-reload", "/b", "/r reload --timeout 80s", "/c"]);
        assert_eq!(reload_commands(&owned(&["/a"]), "/r"), ["/a", "/r check --for-reload", "/r reload --timeout 80s"]);
        assert_eq!(reload_commands(&[], "/r"), ["/r check --for-reload", "/r reload --timeout 80s"]);
        let twice = owned(&["/bin/kill -USR2 $MAINPID", "/bin/kill -HUP $MAINPID"]);
        assert_eq!(reload_commands(&twice, "/r"), ["/r check --for-reload", "/r reload --timeout 80s"]);
    }

    #[test]
    fn only_checks_are_dropped_from_the_start() {
        let lines =
            owned(&["/bin/mkdir -p /run/maps", "/usr/sbin/haproxy -f $CONFIG -c -q", "+/usr/local/bin/make-maps"]);
        assert_eq!(start_pre_commands(&lines), ["/bin/mkdir -p /run/maps", "+/usr/local/bin/make-maps"]);
    }
}

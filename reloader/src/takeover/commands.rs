//! Decides which commands of a unit stay when reloader takes it over. Pure.

use crate::haproxy::unit_command::without_prefixes;

/// What a line of `ExecStartPre=` or `ExecReload=` is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// HAProxy checks its configuration: reloader does that before it starts a generation.
    Check,
    /// HAProxy is reloaded: its master is signalled, or another HAProxy is started by `-sf`. Reloader reloads instead.
    Reload,
    /// The operator's own command, which is run as it is written.
    Own,
}

/// The command of each line that is in force after a takeover. `lines` are the values of `ExecReload=`. Reloader's own commands take the place
/// of the first check and of the first reload.
pub(super) fn reload_commands(lines: &[String], reloader: &str) -> Vec<String> {
    let check = format!("{reloader} check --for-reload");
    let reload = format!("{reloader} reload --timeout 80s");
    let mut commands: Vec<String> = Vec::new();
    for line in lines {
        match purpose_of(line) {
            Purpose::Own => commands.push(line.clone()),
            Purpose::Check if !commands.contains(&check) => commands.push(check.clone()),
            Purpose::Reload if !commands.contains(&reload) => commands.push(reload.clone()),
            Purpose::Check | Purpose::Reload => {}
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

/// Tells what a line is for. A line that does anything else besides is the operator's own.
pub(super) fn purpose_of(line: &str) -> Purpose {
    let command = without_prefixes(line);
    let Some(script) = script_of(command) else { return purpose_of_command(command) };
    let script = without_redirections(script).replace("&&", ";").replace("||", ";");
    let parts = script.split(';').map(str::trim).filter(|part| !part.is_empty() && !is_neutral(part));
    let purposes: Vec<Purpose> = parts.map(purpose_of_command).collect();
    if purposes.contains(&Purpose::Own) || purposes.is_empty() {
        return Purpose::Own;
    }
    if purposes.contains(&Purpose::Reload) { Purpose::Reload } else { Purpose::Check }
}

/// Whether a command of the line starts another HAProxy in place of a running one, or ends HAProxy by its name. The daemon would find the one on
/// its ports, and its generations killed by the other.
pub(super) fn harms_haproxy(line: &str) -> bool {
    let mut commands = without_prefixes(line).split([';', '&', '|', '(', '`', '"', '\'']);
    commands.any(|command| starts_over(command.trim()) || ends_by_name(command.trim()))
}

/// `pkill haproxy`, `killall -9 haproxy`. A HAProxy of the daemon ignores SIGUSR2.
fn ends_by_name(command: &str) -> bool {
    let (program, arguments) = program_and_arguments(command);
    ["pkill", "killall"].contains(&program) && name_haproxy(&arguments) && !arguments.iter().any(is_reload_signal)
}

/// `haproxy … -sf PID`.
fn starts_over(command: &str) -> bool {
    let (program, arguments) = program_and_arguments(command);
    program == "haproxy" && arguments.iter().any(|word| ["-sf", "-st"].contains(word))
}

/// The script of `sh -c 'SCRIPT'`.
fn script_of(command: &str) -> Option<&str> {
    let (program, rest) = command.split_once(char::is_whitespace)?;
    let (option, script) = rest.trim_start().split_once(char::is_whitespace)?;
    let is_shell = ["sh", "bash", "dash"].contains(&program_name(program));
    let script = script.trim();
    let quote = script.chars().next().filter(|first| ['"', '\''].contains(first))?;
    // Words behind the script are its arguments.
    let inner = script[1..].strip_suffix(quote).filter(|inner| !inner.contains(quote));
    inner.filter(|_| is_shell && option.starts_with('-') && option.ends_with('c'))
}

/// The script without what sends output elsewhere: `2>&1`, `>/dev/null`, `> /dev/null`.
fn without_redirections(script: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut words = script.split_whitespace();
    while let Some(word) = words.next() {
        let redirects =
            word.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '&').strip_prefix('>');
        let target = match redirects.map(|target| target.trim_start_matches('>')) {
            None => {
                kept.push(word);
                continue;
            }
            Some("") => words.next().unwrap_or_default(),
            Some(target) => target,
        };
        // Another command may follow without a space: `>/dev/null;`.
        kept.extend(target.find([';', '|']).map(|end| &target[end..]));
    }
    kept.join(" ")
}

/// Ends a script without doing anything.
fn is_neutral(command: &str) -> bool {
    let mut words = command.split_whitespace();
    matches!(words.next(), Some("exit" | "true" | ":"))
}

fn purpose_of_command(command: &str) -> Purpose {
    let (program, arguments) = program_and_arguments(command);
    let does_more = command.contains([';', '&', '|', '`']);
    match program {
        _ if does_more => Purpose::Own,
        "haproxy" if arguments.contains(&"-c") && !command.contains("$(") => Purpose::Check,
        "haproxy" if starts_over(command) => Purpose::Reload,
        "kill" if signals_the_master(&arguments) => Purpose::Reload,
        // Without a master, HAProxy dies of SIGUSR2.
        "pkill" | "killall" if signals_by_name(&arguments) => Purpose::Reload,
        _ => Purpose::Own,
    }
}

/// `-USR2 haproxy`, `-x --signal HUP haproxy`.
fn signals_by_name(arguments: &[&str]) -> bool {
    arguments.iter().any(is_reload_signal) && name_haproxy(arguments)
}

fn name_haproxy(arguments: &[&str]) -> bool {
    arguments.iter().any(|word| program_name(word) == "haproxy")
}

fn is_reload_signal(word: &&str) -> bool {
    let signal = word.trim_start_matches("--signal=").trim_start_matches('-').trim_start_matches("SIG");
    ["USR2", "HUP", "12", "1"].contains(&signal)
}

/// The name of the program of a command in a shell, and its arguments.
fn program_and_arguments(command: &str) -> (&str, Vec<&str>) {
    let mut words = command.split_whitespace().skip_while(|word| *word == "exec");
    (program_name(words.next().unwrap_or_default()), words.collect())
}

fn program_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
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
        for line in [
            "/bin/kill -USR2 $MAINPID",
            "kill -s HUP ${MAINPID}",
            "/bin/kill -SIGUSR2 $PIDFILE",
            "/bin/kill -USR2 $(cat /run/haproxy.pid)",
            "/bin/sh -c 'haproxy -c -q -f $CONFIG > /dev/null && exec kill -USR2 $MAINPID'",
            "/bin/bash -ec \"/usr/sbin/haproxy -c -f /a; /usr/sbin/haproxy -D -f /a -p /run/a.pid -sf $(cat /run/a.pid)\"",
            "/usr/sbin/haproxy -D -f /a -sf $MAINPID",
            "/bin/sh -c 'haproxy -c -f $CONFIG >/dev/null 2>&1 && kill -USR2 $MAINPID || exit 1'",
            "/bin/sh -c 'haproxy -c -f $CONFIG > /dev/null; kill -USR2 $MAINPID &>/dev/null'",
        ] {
            assert_eq!(purpose_of(line), Purpose::Reload, "{line}");
        }
        for line in [
            "/usr/sbin/haproxy -D -f $CONFIG -p $PIDFILE -x /run/haproxy/admin.sock -sf $MAINPID",
            "/usr/bin/pkill -USR2 -x haproxy",
            "+/usr/bin/killall --signal=SIGUSR2 /usr/sbin/haproxy",
        ] {
            assert_eq!(purpose_of(line), Purpose::Reload, "{line}");
        }
        for line in [
            "/usr/bin/pkill -USR1 haproxy",
            "/usr/bin/pkill -HUP rsyslogd",
            "/usr/local/bin/dump-state",
            "/bin/sh -c 'haproxy -c -f /a && touch /b'",
            "/bin/sh -c 'haproxy -c -f $1 && kill -USR2 $MAINPID' x '/a'",
            "/bin/sh -c 'dump-state | tee /a; kill -USR2 $MAINPID'",
            "/bin/sh /usr/local/bin/check-and-reload",
            "/bin/sh -c ''",
            "/bin/kill -USR1 $MAINPID",
            "/bin/kill -HUP 1234",
            "/usr/sbin/haproxy -vv",
        ] {
            assert_eq!(purpose_of(line), Purpose::Own, "{line}");
        }
    }

    #[test]
    fn own_line_that_starts_another_haproxy_is_found() {
        let own = "/bin/sh -c 'dump-state && /usr/sbin/haproxy -D -f /a -sf $(cat /run/a.pid)'";
        assert!(harms_haproxy(own));
        for line in ["-/usr/bin/killall -q haproxy", "/bin/sh -c 'dump-state; pkill -x haproxy'"] {
            assert!(harms_haproxy(line), "{line}");
        }
        for line in [
            "/bin/ln -sf /etc/haproxy /a",
            "/usr/local/bin/dump -sf",
            "/bin/sh -c 'dump-state; pkill -USR2 -x haproxy'",
        ] {
            assert!(!harms_haproxy(line), "{line}");
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
        let shell = owned(&["/a", "/bin/sh -c 'haproxy -c -f x && kill -USR2 $MAINPID'", "/b"]);
        assert_eq!(reload_commands(&shell, "/r"), ["/a", "/r check --for-reload", "/r reload --timeout 80s", "/b"]);
    }

    #[test]
    fn only_checks_are_dropped_from_the_start() {
        let lines =
            owned(&["/bin/mkdir -p /run/maps", "/usr/sbin/haproxy -f $CONFIG -c -q", "+/usr/local/bin/make-maps"]);
        assert_eq!(start_pre_commands(&lines), ["/bin/mkdir -p /run/maps", "+/usr/local/bin/make-maps"]);
    }
}

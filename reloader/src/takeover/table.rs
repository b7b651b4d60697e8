//! Tells what becomes of each setting of a unit that a takeover concerns. Pure.

use serde::Serialize;

use super::commands::{Purpose, purpose_of};
use super::files::SYSTEM_CALLS;
use super::unit::Unit;
use crate::haproxy::command_line::CommandLine;

/// What becomes of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It has the effect that it had.
    Carried,
    /// Something of reloader takes its place.
    Replaced,
    /// It had its effect when HAProxy was started. After a change reloader.toml has to be edited too.
    Frozen,
}

/// One setting: a directive of the unit, or a word of HAProxy's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The setting as it is written.
    pub setting: String,
    /// What becomes of it.
    pub fate: Fate,
    /// By what, or what to do.
    pub how: String,
}

/// One row for each setting, in the order of the unit.
pub(super) fn rows(unit: &Unit, line: &CommandLine) -> Vec<Row> {
    let row = |setting: String, fate: Fate, how: &str| Row { setting, fate, how: how.into() };
    let is_read_again = unit.command_with_variables().is_some();
    let mut rows = Vec::new();
    for file in &unit.environment_files {
        let setting = format!("EnvironmentFile={file}");
        let decides = unit.start_commands.iter().any(|command| command.contains('$'));
        rows.push(match is_read_again {
            true => row(setting, Fate::Carried, "read at each reload, by environment-files of [haproxy]"),
            false if decides => row(
                setting,
                Fate::Frozen,
                "the command line has the values that it had when HAProxy was started: after a change of the file edit reloader.toml too",
            ),
            false => row(setting, Fate::Carried, "read when the unit is restarted"),
        });
    }
    for command in &unit.start_pre_commands {
        let setting = format!("ExecStartPre={command}");
        rows.push(match purpose_of(command) {
            Purpose::Check => row(
                setting,
                Fate::Replaced,
                "the daemon starts only what HAProxy accepts, and keeps what serves otherwise",
            ),
            _ => row(
                setting,
                Fate::Carried,
                "run before each start of the daemon, while HAProxy serves: it must not touch HAProxy's sockets",
            ),
        });
    }
    for command in &unit.start_commands {
        let how = match is_read_again {
            true => {
                "reloader daemon, which runs HAProxy; the command line is read at each reload, by command-line of [haproxy]"
            }
            false => "reloader daemon, which runs HAProxy",
        };
        rows.push(row(format!("ExecStart={command}"), Fate::Replaced, how));
    }
    for command in &unit.reload_commands {
        let setting = format!("ExecReload={command}");
        rows.push(match purpose_of(command) {
            Purpose::Check => row(setting, Fate::Replaced, "reloader check --for-reload"),
            Purpose::Reload => row(setting, Fate::Replaced, "reloader reload"),
            Purpose::Own => row(setting, Fate::Carried, "run at each reload, in its place"),
        });
    }
    rows.extend(sandbox_rows(unit));
    rows.extend(word_rows(line, is_read_again));
    rows
}

/// Settings of the sandbox to which the takeover adds something.
fn sandbox_rows(unit: &Unit) -> Vec<Row> {
    let row = |setting: &str, how: String| Row { setting: setting.into(), fate: Fate::Carried, how };
    let mut rows = Vec::new();
    if unit.is_read_only() {
        let how = "the daemon's own directories are writable besides (RuntimeDirectory=, StateDirectory=)";
        rows.push(row("ProtectSystem=strict", how.into()));
    }
    if unit.filters_system_calls() {
        let how = format!("the daemon's own calls are allowed besides: {SYSTEM_CALLS}");
        rows.push(row("SystemCallFilter=", how));
    }
    rows
}

/// Words of HAProxy's command line.
fn word_rows(line: &CommandLine, is_read_again: bool) -> Vec<Row> {
    let row = |setting: String, how: &str| Row { setting, fate: Fate::Carried, how: how.into() };
    let pid_file = line.pid_file.iter().map(|path| {
        row(
            format!("-p {}", path.display()),
            "it has the daemon's pid: SIGUSR2 to the daemon reloads, as it does with a master; SIGHUP makes it read reloader.toml again",
        )
    });
    let how = if is_read_again { "part of the command line" } else { "args of [haproxy]" };
    pid_file.chain(line.args.iter().map(|argument| row(argument.clone(), how))).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::haproxy::command_line;

    #[test]
    fn each_setting_has_a_row() {
        let cat = "EnvironmentFile=-/etc/default/haproxy\nExecStartPre=/bin/mkdir -p /run/maps\n\
                   ExecStart=/usr/sbin/haproxy -Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS\n\
                   ExecReload=/usr/sbin/haproxy -Ws -f $CONFIG -c\nExecReload=/bin/kill -USR2 $MAINPID\n";
        let unit = Unit::parse("haproxy.service", "", cat, "zz");
        let words: Vec<String> = "haproxy -Ws -f /a.cfg -p /run/a.pid -m 512".split(' ').map(str::to_owned).collect();
        let line = command_line::read(Path::new("/usr/sbin/haproxy"), &words).unwrap();
        let rows = rows(&unit, &line);
        let fates: Vec<(&str, Fate)> =
            rows.iter().map(|row| (row.setting.split(['=', ' ']).next().unwrap(), row.fate)).collect();
        assert_eq!(
            fates,
            [
                ("EnvironmentFile", Fate::Carried),
                ("ExecStartPre", Fate::Carried),
                ("ExecStart", Fate::Replaced),
                ("ExecReload", Fate::Replaced),
                ("ExecReload", Fate::Replaced),
                ("-p", Fate::Carried),
                ("-m", Fate::Carried),
                ("512", Fate::Carried),
            ]
        );
    }
}

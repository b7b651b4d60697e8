//! The files that a takeover writes. Pure.

use std::path::{Path, PathBuf};

use super::command_line::Carried;
use super::unit::Unit;
use crate::config::Config;

/// It stays as long as the unit is reloader's. Named so that it comes after the operator's own drop-ins.
pub(super) const DROP_IN: &str = "zz-reloader.conf";

/// It is there while the unit changes hands, and comes after all others.
const HANDOVER: &str = "zzz-reloader-handover.conf";

/// The configuration where there was none. `--undo` removes it if it is still as it was written.
pub(super) const CONFIG: &str = "/etc/reloader/reloader.toml";

/// The drop-in's place.
pub(super) fn drop_in(unit: &str) -> PathBuf {
    Path::new("/etc/systemd/system").join(format!("{unit}.d")).join(DROP_IN)
}

/// The place of the one that is there while the unit changes hands: gone after a reboot.
pub(super) fn handover(unit: &str) -> PathBuf {
    Path::new("/run/systemd/system").join(format!("{unit}.d")).join(HANDOVER)
}

/// The main process that systemd is to take for its own when a takeover is given up.
pub(super) fn pid_file(unit: &str) -> PathBuf {
    Path::new("/run").join(format!("{unit}.given-back.pid"))
}

/// The drop-in by which the unit runs the daemon: `reloader` is the program with the options of all commands. What else the unit says stays in force, for the daemon and for HAProxy.
pub(super) fn drop_in_text(reloader: &str) -> String {
    let settings = SETTINGS.iter().map(|(key, value)| format!("{key}={value}\n")).collect::<String>();
    format!(
        "# Written by `reloader takeover`; `reloader takeover --undo` removes it. What each line is for: docs/guide/systemd.md of reloader.\n\
         [Unit]\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         ExecStartPre=\n\
         ExecStart=\n\
         ExecStart={reloader} daemon\n\
         ExecReload=\n\
         ExecReload={reloader} check --for-reload\n\
         ExecReload={reloader} reload --timeout 80s\n\
         {settings}"
    )
}

/// What the unit of this project says too.
pub(super) const SETTINGS: [(&str, &str); 14] = [
    ("Type", "notify"),
    ("NotifyAccess", "main"),
    ("SuccessExitStatus", "3"),
    ("KillMode", "process"),
    ("KillSignal", "SIGTERM"),
    ("OOMPolicy", "continue"),
    ("Restart", "on-failure"),
    ("RestartSec", "100ms"),
    ("RestartPreventExitStatus", "2 77 78 203"),
    ("WatchdogSec", "30s"),
    ("FileDescriptorStoreMax", "4096"),
    ("Environment", "FDSTORE=4096"),
    ("RuntimeDirectoryPreserve", "yes"),
    ("LimitMEMLOCK", "infinity"),
];

/// While the daemon takes HAProxy's place: what runs in the unit is left alone.
pub(super) const LEAVE_ALL: &str = "[Service]\nKillMode=none\n";

/// While HAProxy takes the daemon's place: HAProxy gets the sockets of the generation that serves, and the daemon alone is ended.
pub(super) fn hand_back_text(unit: &Unit, socket: &Path) -> String {
    let start = unit.starts.first().map_or("", String::as_str);
    format!("[Service]\nKillMode=process\nExecStart=\nExecStart={start} -x {}\n", socket.display())
}

/// systemd takes a process for the unit's own again: one that forks may say which one it is.
pub(super) fn given_back_text(unit: &str) -> String {
    let pid_file = pid_file(unit).display().to_string();
    format!(
        "[Service]\nType=forking\nPIDFile={pid_file}\nKillMode=none\nExecStartPre=\nExecStart=\nExecStart=/bin/true\nRestart=no\n"
    )
}

/// The configuration for what HAProxy's command line says; `None` where that is what holds without a file.
pub(super) fn config_text(carried: &Carried) -> Option<String> {
    let is_default = carried.binary == Path::new("/usr/sbin/haproxy")
        && carried.config == [Path::new("/etc/haproxy/haproxy.cfg")]
        && carried.args.is_empty();
    if is_default {
        return None;
    }
    let text = |words: Vec<String>| toml::Value::from(words).to_string();
    let paths = carried.config.iter().map(|path| path.display().to_string()).collect();
    Some(format!(
        "# Written by `reloader takeover` from HAProxy's command line.\n[haproxy]\nbinary = {}\nconfig = {}\nargs = {}\n",
        toml::Value::from(carried.binary.display().to_string()),
        text(paths),
        text(carried.args.clone())
    ))
}

/// Whether this is what [`config_text`] writes, and nothing else: an operator's own settings must not go with it.
pub(super) fn is_as_written(text: &str) -> bool {
    let haproxy = Config::parse(text).ok().and_then(|config| config.haproxy);
    let carried = haproxy.map(|it| Carried { binary: it.binary, config: it.config, args: it.args, notes: Vec::new() });
    carried.and_then(|carried| config_text(&carried)).is_some_and(|written| written == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = include_str!("../../../packaging/systemd/reloader.service");

    #[test]
    fn drop_in_and_unit_agree() {
        for (key, value) in SETTINGS {
            let line = format!("{key}={value}");
            assert!(UNIT.lines().any(|found| found == line), "{line} is not in reloader.service");
        }
        let text = drop_in_text("/usr/local/bin/reloader");
        for line in UNIT.lines().filter(|line| line.starts_with("Exec") || line.starts_with("StartLimit")) {
            assert!(text.lines().any(|found| found == line), "{line} is not in the drop-in");
        }
    }

    #[test]
    fn the_configuration_is_what_the_command_line_says() {
        let carried = |config: &[&str], args: &[&str]| Carried {
            binary: "/usr/sbin/haproxy".into(),
            config: config.iter().map(PathBuf::from).collect(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            notes: Vec::new(),
        };
        assert_eq!(config_text(&carried(&["/etc/haproxy/haproxy.cfg"], &[])), None);
        let text = config_text(&carried(&["/etc/a.cfg", "/etc/b \"c\".cfg"], &["-m", "512"])).unwrap();
        let haproxy = Config::parse(&text).unwrap().haproxy.unwrap();
        assert_eq!(haproxy.config, ["/etc/a.cfg", "/etc/b \"c\".cfg"].map(PathBuf::from));
        assert_eq!(haproxy.args, ["-m", "512"]);
        assert!(is_as_written(&text) && !is_as_written("") && !is_as_written("[haproxy]\n"));
        assert!(!is_as_written(&format!("{text}\n[reload]\nstrategy = \"hold\"\n")));
    }
}

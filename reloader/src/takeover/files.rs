//! The files that a takeover writes: their paths and texts.

use std::path::{Path, PathBuf};

use super::commands;
use super::unit::Unit;
use crate::config::{Config, UnitCommand};
use crate::haproxy::command_line::CommandLine;

/// The drop-in that is present as long as the unit is reloader's. By its name it comes after the operator's own drop-ins.
pub(super) const DROP_IN: &str = "zz-reloader.conf";

/// The drop-in that is present while the unit's main process changes. It comes after all others.
const HANDOVER: &str = "zzz-reloader-handover.conf";

/// The configuration that a takeover writes where there is none. `--undo` removes it if it is unchanged.
pub(super) const CONFIG: &str = "/etc/reloader/reloader.toml";

/// The path of [`DROP_IN`].
pub(super) fn drop_in(unit: &str) -> PathBuf {
    Path::new("/etc/systemd/system").join(format!("{unit}.d")).join(DROP_IN)
}

/// The path of [`HANDOVER`]. It does not survive a reboot.
pub(super) fn handover(unit: &str) -> PathBuf {
    Path::new("/run/systemd/system").join(format!("{unit}.d")).join(HANDOVER)
}

/// The PID file from which systemd reads the unit's main process when a takeover is aborted.
pub(super) fn pid_file(unit: &str) -> PathBuf {
    Path::new("/run").join(format!("{unit}.given-back.pid"))
}

/// The drop-in by which the unit runs the daemon. `reloader` is the program with the options that all commands share. The unit's
/// other settings stay in force, for the daemon and for HAProxy, and so do the operator's own commands before a start and at a reload.
pub(super) fn drop_in_text(unit: &Unit, reloader: &str, config: &Config) -> String {
    let settings = SETTINGS.iter().map(|(key, value)| format!("{key}={value}\n")).collect::<String>();
    let lines = |key: &str, commands: Vec<String>| {
        commands.iter().map(|command| format!("{key}={command}\n")).collect::<String>()
    };
    let before = lines("ExecStartPre", commands::start_pre_commands(&unit.start_pre_commands));
    let reload = lines("ExecReload", commands::reload_commands(&unit.reload_commands, reloader));
    let directories = if unit.is_read_only() { directory_lines(unit, config) } else { String::new() };
    let calls = match unit.filters_system_calls() {
        true => format!("SystemCallFilter=~{OBSOLETE_CALL}\nSystemCallFilter={SYSTEM_CALLS}\n"),
        false => String::new(),
    };
    format!(
        "# Written by `reloader takeover`; `reloader takeover --undo` removes it. docs/guide/systemd.md of reloader explains each line.\n\
         [Unit]\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         ExecStartPre=\n\
         {before}\
         ExecStart=\n\
         ExecStart={reloader} daemon\n\
         ExecReload=\n\
         {reload}\
         {settings}\
         {directories}\
         {calls}"
    )
}

/// The lines that let the daemon write to its own directories, although the unit makes the whole file system read-only.
fn directory_lines(unit: &Unit, config: &Config) -> String {
    let mut lines = String::new();
    let mut allow = |key: &str, parent: &str, path: &Path| {
        lines += &match path.strip_prefix(parent) {
            Ok(name) => format!("{key}={}\n", name.display()),
            Err(_) => format!("ReadWritePaths=-{}\n", path.display()),
        };
    };
    allow("RuntimeDirectory", "/run", &config.runtime_dir);
    allow("StateDirectory", "/var/lib", &config.state_dir);
    // The mode holds for all directories of the unit, and the operator's own keep theirs.
    let is_own = |name: &str| Path::new("/var/lib").join(name) == config.state_dir;
    if unit.property("StateDirectory").split_whitespace().all(is_own) {
        lines += "StateDirectoryMode=0750\n";
    }
    lines
}

/// Settings that packaging/systemd/reloader.service has, too.
pub(super) const SETTINGS: [(&str, &str); 15] = [
    ("Type", "notify"),
    ("NotifyAccess", "main"),
    ("SuccessExitStatus", "3"),
    ("KillMode", "process"),
    ("KillSignal", "SIGTERM"),
    ("Delegate", "yes"),
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

/// System calls that the daemon makes and HAProxy does not. Groups that people deny have them: `@sync`, `@debug`, `@process`, `@resources`.
pub(super) const SYSTEM_CALLS: &str =
    "bpf fdatasync fsync kcmp pidfd_getfd pidfd_open pidfd_send_signal setpriority syncfs";

/// A system call that Linux no longer has. The first filter that systemd reads decides whether all other calls are denied or allowed. Should the
/// operator's own filter be removed, this one leaves them allowed.
const OBSOLETE_CALL: &str = "_sysctl";

/// The drop-in that is present while the daemon takes HAProxy's place. With it systemd signals no process of the unit.
pub(super) const KILL_NOTHING: &str = "[Service]\nKillMode=none\n";

/// The drop-in that is present while HAProxy takes the daemon's place. With it HAProxy gets the sockets of the serving
/// generation, and systemd ends only the daemon. `socket` is the private stats socket of that generation. The paths of passed unix sockets in the
/// unit's runtime directory stay, because HAProxy does not bind them again.
pub(super) fn hand_back_text(unit: &Unit, socket: &Path) -> String {
    let start = unit.start_commands.first().map_or("", String::as_str);
    format!(
        "[Service]\nKillMode=process\nRuntimeDirectoryPreserve=yes\nExecStart=\nExecStart={start} -x {}\n",
        socket.display()
    )
}

/// The drop-in with which systemd takes the process in the PID file as the unit's main process again. Only a unit of the
/// type `forking` may name its main process in a PID file.
pub(super) fn readopt_text(unit: &str) -> String {
    let pid_file = pid_file(unit).display().to_string();
    format!(
        "[Service]\nType=forking\nPIDFile={pid_file}\nKillMode=none\nExecStartPre=\nExecStart=\nExecStart=/bin/true\nRestart=no\n"
    )
}

/// The configuration that corresponds to this command line of HAProxy. `None` if reloader's defaults correspond to it. Where variables decide
/// what the unit's command says, it is read again at each reload.
pub(super) fn config_text(line: &CommandLine, command: Option<&UnitCommand>) -> Option<String> {
    let list = |words: Vec<String>| toml::Value::from(words).to_string();
    let text = |text: String| toml::Value::from(text).to_string();
    let pid_file = line.pid_file.as_ref().map(|path| format!("pid-file = {}\n", text(path.display().to_string())));
    let head = "# Written by `reloader takeover` from HAProxy's command line.\n[haproxy]\n";
    if let Some(command) = command {
        let (line, files) = (text(command.line.clone()), list(command.environment_files.clone()));
        let variables = toml::Value::from(toml::Table::from_iter(
            command.default_environment.iter().map(|(name, value)| (name.clone(), value.clone().into())),
        ));
        return Some(format!(
            "{head}command-line = {line}\nenvironment-files = {files}\ndefault-environment = {variables}\n{}",
            pid_file.unwrap_or_default()
        ));
    }
    let is_default = line.binary == Path::new("/usr/sbin/haproxy")
        && line.config == [Path::new("/etc/haproxy/haproxy.cfg")]
        && line.args.is_empty()
        && line.pid_file.is_none();
    if is_default {
        return None;
    }
    let paths = line.config.iter().map(|path| path.display().to_string()).collect();
    Some(format!(
        "{head}binary = {}\nconfig = {}\nargs = {}\n{}",
        text(line.binary.display().to_string()),
        list(paths),
        list(line.args.clone()),
        pid_file.unwrap_or_default()
    ))
}

/// Whether this is exactly what [`config_text`] writes. A file with the operator's own settings must not be removed.
pub(super) fn is_as_written(text: &str) -> bool {
    let Some(haproxy) = Config::parse(text).ok().and_then(|config| config.haproxy) else { return false };
    let line = CommandLine {
        binary: haproxy.binary,
        config: haproxy.config,
        args: haproxy.args,
        pid_file: haproxy.pid_file,
        notes: Vec::new(),
    };
    config_text(&line, haproxy.unit_command.as_ref()).is_some_and(|written| written == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = include_str!("../../../packaging/systemd/reloader.service");

    #[test]
    fn drop_in_agrees_with_the_packaged_unit() {
        for (key, value) in SETTINGS {
            let line = format!("{key}={value}");
            assert!(UNIT.lines().any(|found| found == line), "{line} is not in reloader.service");
        }
        let stock = "ExecStartPre=/usr/sbin/haproxy -f $CONFIG -c -q\nExecReload=/usr/sbin/haproxy -c -f $CONFIG\nExecReload=/bin/kill -USR2 $MAINPID\n";
        let text = drop_in_text(
            &Unit::parse("haproxy.service", "", stock, DROP_IN),
            "/usr/local/bin/reloader",
            &Config::parse("[haproxy]\n").unwrap(),
        );
        assert!(!text.contains("haproxy -"), "{text}");
        for line in UNIT.lines().filter(|line| line.starts_with("Exec") || line.starts_with("StartLimit")) {
            assert!(text.lines().any(|found| found == line), "{line} is not in the drop-in");
        }
    }

    #[test]
    fn template_unit_differs_by_its_instance_only() {
        let template = include_str!("../../../packaging/systemd/reloader@.service");
        let body = |text: &str| text.split_once("[Unit]").unwrap().1.to_owned();
        let instance = body(UNIT)
            .replace("/usr/local/bin/reloader ", "/usr/local/bin/reloader --config /etc/reloader/%i.toml ")
            .replace("Directory=reloader\n", "Directory=reloader/%i\n")
            .replace("a connection\n", "a connection (%i)\n");
        assert_eq!(body(template), instance);
    }

    #[test]
    fn commands_of_the_operator_stay_in_force() {
        let own = "ExecStartPre=+/usr/local/bin/make-maps\nExecReload=/usr/local/bin/dump-state\nExecReload=/bin/kill -USR2 $MAINPID\n";
        let text = drop_in_text(
            &Unit::parse("haproxy.service", "", own, DROP_IN),
            "/r",
            &Config::parse("[haproxy]\n").unwrap(),
        );
        assert!(text.contains("ExecStartPre=\nExecStartPre=+/usr/local/bin/make-maps\nExecStart=\n"), "{text}");
        let reload = "ExecReload=\nExecReload=/usr/local/bin/dump-state\nExecReload=/r check --for-reload\nExecReload=/r reload --timeout 80s\n";
        assert!(text.contains(reload), "{text}");
    }

    #[test]
    fn directories_of_the_daemon_are_writable_in_a_read_only_unit() {
        let text = |show: &str, config: &Config| drop_in_text(&Unit::parse("a", show, "", DROP_IN), "/r", config);
        let config = Config::parse("[haproxy]\n").unwrap();
        assert!(!text("ProtectSystem=full\n", &config).contains("Directory="));
        let strict = text("ProtectSystem=strict\nStateDirectory=\n", &config);
        assert!(
            strict.ends_with("RuntimeDirectory=reloader\nStateDirectory=reloader\nStateDirectoryMode=0750\n"),
            "{strict}"
        );
        let own = text("ProtectSystem=strict\nStateDirectory=haproxy\n", &config);
        assert!(own.ends_with("StateDirectory=reloader\n"), "{own}");
        let elsewhere = Config { state_dir: "/srv/b".into(), runtime_dir: "/run/reloader/b".into(), ..config };
        let elsewhere = text("ProtectSystem=strict\n", &elsewhere);
        assert!(elsewhere.contains("RuntimeDirectory=reloader/b\nReadWritePaths=-/srv/b\n"), "{elsewhere}");
    }

    #[test]
    fn filter_of_the_unit_allows_the_calls_of_the_daemon() {
        let config = Config::parse("[haproxy]\n").unwrap();
        let text = |show: &str| drop_in_text(&Unit::parse("a", show, "", DROP_IN), "/r", &config);
        assert!(
            text("SystemCallFilter=~fsync sync\n")
                .ends_with(&format!("SystemCallFilter=~_sysctl\nSystemCallFilter={SYSTEM_CALLS}\n"))
        );
        assert!(!text("SystemCallFilter=\n").contains("SystemCallFilter"));
    }

    #[test]
    fn configuration_is_made_from_the_command_line() {
        let line = |config: &[&str], args: &[&str]| CommandLine {
            binary: "/usr/sbin/haproxy".into(),
            config: config.iter().map(PathBuf::from).collect(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            pid_file: None,
            notes: Vec::new(),
        };
        assert_eq!(config_text(&line(&["/etc/haproxy/haproxy.cfg"], &[]), None), None);
        let text = config_text(&line(&["/etc/a.cfg", "/etc/b \"c\".cfg"], &["-m", "512"]), None).unwrap();
        let haproxy = Config::parse(&text).unwrap().haproxy.unwrap();
        assert_eq!(haproxy.config, ["/etc/a.cfg", "/etc/b \"c\".cfg"].map(PathBuf::from));
        assert_eq!((haproxy.args, haproxy.pid_file), (vec!["-m".to_owned(), "512".to_owned()], None));
        let debian =
            CommandLine { pid_file: Some("/run/haproxy.pid".into()), ..line(&["/etc/haproxy/haproxy.cfg"], &[]) };
        let stock = UnitCommand {
            line: "/usr/sbin/haproxy -Ws -f $CONFIG $EXTRAOPTS".into(),
            environment_files: vec!["-/etc/default/haproxy".into()],
            default_environment: [("CONFIG".to_owned(), "/etc/a \"b\".cfg".to_owned())].into(),
        };
        let with_variables = config_text(&debian, Some(&stock)).unwrap();
        assert_eq!(Config::parse(&with_variables).unwrap().haproxy.unwrap().unit_command, Some(stock));
        assert!(is_as_written(&with_variables));
        let debian = config_text(&debian, None).unwrap();
        assert_eq!(Config::parse(&debian).unwrap().haproxy.unwrap().pid_file, Some("/run/haproxy.pid".into()));
        assert!(is_as_written(&debian));
        assert!(is_as_written(&text) && !is_as_written("") && !is_as_written("[haproxy]\n"));
        assert!(!is_as_written(&format!("{text}\n[reload]\nstrategy = \"hold\"\n")));
    }
}

//! The settings and the state of a systemd unit, and whether it can be taken over.

use std::collections::BTreeMap;

use super::commands::{Purpose, harms_haproxy, purpose_of};
use crate::config::UnitCommand;
use crate::haproxy::unit_command::{self, prefixes};

/// A unit, from the output of `systemctl show` and `systemctl cat`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// Its full name: `haproxy.service`.
    pub(super) name: String,
    properties: BTreeMap<String, String>,
    /// The commands of `ExecStart=`, as its files have them. The drop-in of a takeover is left out.
    pub(super) start_commands: Vec<String>,
    /// Those of `ExecStartPre=`.
    pub(super) start_pre_commands: Vec<String>,
    /// Those of `ExecReload=`.
    pub(super) reload_commands: Vec<String>,
    /// The files of `EnvironmentFile=`, with their prefix.
    pub(super) environment_files: Vec<String>,
    /// The variables of `Environment=`.
    environment: BTreeMap<String, String>,
}

/// Capabilities that the daemon needs, as `systemctl show` writes them.
const CAPABILITIES: [&str; 3] = ["cap_kill", "cap_net_admin", "cap_sys_ptrace"];

impl Unit {
    /// Reads what both commands print. `ExecStart=` of a file named `own_drop_in` is left out.
    pub(super) fn parse(name: &str, show: &str, cat: &str, own_drop_in: &str) -> Unit {
        let pairs = show.lines().filter_map(|line| line.split_once('='));
        let properties = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let commands = |directive: &str| commands(cat, own_drop_in, directive);
        Unit {
            name: name.into(),
            properties,
            start_commands: commands("ExecStart"),
            start_pre_commands: commands("ExecStartPre"),
            reload_commands: commands("ExecReload"),
            environment_files: commands("EnvironmentFile"),
            environment: commands("Environment").iter().flat_map(|value| unit_command::assignments(value)).collect(),
        }
    }

    /// The value of a property; empty where systemd gives none.
    pub(super) fn property(&self, property: &str) -> &str {
        self.properties.get(property).map_or("", String::as_str)
    }

    /// The pid of its main process, where it has one.
    pub(super) fn main_pid(&self) -> Option<u32> {
        self.property("MainPID").parse().ok().filter(|pid| *pid != 0)
    }

    /// Whether it starts or reloads (`ActiveState` of org.freedesktop.systemd1(5)). A unit that waits for its next restart does not.
    pub(super) fn is_changing(&self) -> bool {
        let state = self.property("ActiveState");
        matches!(state, "activating" | "reloading" | "refreshing")
            && !self.property("SubState").starts_with("auto-restart")
    }

    /// Whether its processes may write to no directory but those that it names.
    pub(super) fn is_read_only(&self) -> bool {
        self.property("ProtectSystem") == "strict"
    }

    /// Whether it allows or denies single system calls.
    pub(super) fn filters_system_calls(&self) -> bool {
        !self.property("SystemCallFilter").is_empty()
    }

    /// Its command line, where variables decide what it says.
    pub(super) fn command_with_variables(&self) -> Option<UnitCommand> {
        // Only systemd knows the values of its specifiers, such as `%i`. After the prefix `:` it replaces no variables.
        let is_literal = |line: &str| line.contains('%') || prefixes(line).contains(':');
        let line = self.start_commands.first().filter(|line| line.contains('$') && !is_literal(line))?;
        // A pattern stands for the files that are there when the unit is started.
        if self.environment_files.iter().any(|file| file.contains(['%', '*', '?', '['])) {
            return None;
        }
        // Other variables, which may be secret, have no business in reloader.toml.
        let names = unit_command::names_in(line);
        let used = self.environment.iter().filter(|(name, _)| names.contains(*name));
        Some(UnitCommand {
            line: line.clone(),
            environment_files: self.environment_files.clone(),
            default_environment: used.map(|(name, value)| (name.clone(), value.clone())).collect(),
        })
    }

    /// The first setting that keeps the daemon from running in this unit, in a sentence with the remedy.
    pub(super) fn obstacle(&self) -> Option<String> {
        let checks = [
            Unit::start_command_obstacle,
            Unit::socket_unit_obstacle,
            Unit::own_command_obstacle,
            Unit::other_command_obstacle,
            Unit::user_obstacle,
            Unit::sandbox_obstacle,
            Unit::capability_obstacle,
            Unit::address_family_obstacle,
        ];
        checks.into_iter().find_map(|check| check(self))
    }

    fn start_command_obstacle(&self) -> Option<String> {
        let count = self.start_commands.len();
        (count != 1).then(|| format!("it has {count} commands in ExecStart=, and exactly one can be handed over"))
    }

    fn socket_unit_obstacle(&self) -> Option<String> {
        let socket = self.property("TriggeredBy").split_whitespace().find(|unit| unit.ends_with(".socket"))?;
        Some(format!(
            "{socket} passes sockets to it, and systemd would clear their O_NONBLOCK while HAProxy serves on them; write their \
             addresses into HAProxy's configuration, reload it, and run `systemctl disable --now {socket}`"
        ))
    }

    fn own_command_obstacle(&self) -> Option<String> {
        // What only checks and reloads is replaced.
        let reloads = self.reload_commands.iter().filter(|line| purpose_of(line) == Purpose::Own);
        let mut commands = reloads
            .map(|line| ("ExecReload", line))
            .chain(self.start_pre_commands.iter().map(|line| ("ExecStartPre", line)));
        let (directive, line) = commands.find(|(_, line)| harms_haproxy(line))?;
        Some(format!(
            "{directive}={line} ends HAProxy, or starts another one (`-sf`), while the daemon runs it; remove that (`systemctl edit {}`): \
             reloader reloads HAProxy itself",
            self.name
        ))
    }

    fn other_command_obstacle(&self) -> Option<String> {
        let commands = ["ExecStop", "ExecStopPost", "ExecStartPost"];
        let command = commands.into_iter().find(|command| !self.property(command).is_empty())?;
        Some(format!(
            "{command}= expects HAProxy to be the unit's main process; remove it (`systemctl edit {}`)",
            self.name
        ))
    }

    fn user_obstacle(&self) -> Option<String> {
        let user = self.property("User");
        let is_root = matches!(user, "" | "root" | "0") && self.property("DynamicUser") != "yes";
        (!is_root).then(|| {
            format!(
                "it runs as `{user}`, and the daemon has to be root; let HAProxy change its user by `user` in its configuration"
            )
        })
    }

    fn sandbox_obstacle(&self) -> Option<String> {
        if let Some(root) = ["RootDirectory", "RootImage"].into_iter().find(|root| !self.property(root).is_empty()) {
            return Some(format!("{root}= hides the daemon's program and files from it"));
        }
        let open =
            [("PrivateUsers", "no"), ("PrivateNetwork", "no"), ("ProtectProc", "default"), ("ProcSubset", "all")];
        let (setting, open) =
            open.into_iter().find(|(setting, open)| !["", *open].contains(&self.property(setting)))?;
        let value = self.property(setting);
        Some(format!("{setting}={value} hides HAProxy's sockets from the daemon; set it to {open}"))
    }

    fn capability_obstacle(&self) -> Option<String> {
        let bounding: Vec<&str> = self.property("CapabilityBoundingSet").split_whitespace().collect();
        let missing = CAPABILITIES.iter().find(|capability| !bounding.is_empty() && !bounding.contains(capability))?;
        Some(format!("CapabilityBoundingSet= lacks {}, which the daemon needs", missing.to_uppercase()))
    }

    fn address_family_obstacle(&self) -> Option<String> {
        let families = self.property("RestrictAddressFamilies");
        // After `~` the list names the families that are denied.
        let is_denied = families.starts_with('~') == families.contains("AF_NETLINK");
        (!families.is_empty() && is_denied)
            .then(|| "RestrictAddressFamilies= denies AF_NETLINK, by which the daemon finds listeners".into())
    }
}

/// The values of `directive` that are in force. An empty value removes those before it (systemd.service(5)).
fn commands(cat: &str, own_drop_in: &str, directive: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut is_own = false;
    for line in logical_lines(cat) {
        if let Some(path) = line.strip_prefix("# /") {
            is_own = path.ends_with(own_drop_in);
        }
        match value_of(&line, directive) {
            Some(_) if is_own => {}
            Some("") => commands.clear(),
            Some(command) => commands.push(command.to_owned()),
            None => {}
        }
    }
    commands
}

/// Joins the lines that end with a backslash to those after them. Comments between them do not count (systemd.syntax(7)).
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun: Option<String> = None;
    for line in text.lines() {
        let is_comment = line.trim_start().starts_with(['#', ';']);
        if is_comment {
            if begun.is_none() {
                lines.push(line.to_owned());
            }
            continue;
        }
        let joined = begun.take().unwrap_or_default() + line.strip_suffix('\\').unwrap_or(line);
        match line.ends_with('\\') {
            true => begun = Some(joined + " "),
            false => lines.push(joined),
        }
    }
    lines.extend(begun);
    lines
}

/// The value of a line `directive=value`. systemd ignores white space around the `=`.
fn value_of<'a>(line: &'a str, directive: &str) -> Option<&'a str> {
    let (name, value) = line.split_once('=')?;
    (name.trim() == directive).then(|| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAT: &str = "# /lib/systemd/system/haproxy.service\n[Service]\nExecStart=/usr/sbin/haproxy -Ws \\\n -f $CONFIG\n\
                       # /etc/systemd/system/haproxy.service.d/override.conf\n[Service]\nExecStart=\nExecStart=/opt/haproxy -Ws\n\
                       # /etc/systemd/system/haproxy.service.d/zz-reloader.conf\n[Service]\nExecStart=\nExecStart=/usr/bin/reloader daemon\n";

    fn unit(show: &str) -> Unit {
        Unit::parse("haproxy.service", show, CAT, "zz-reloader.conf")
    }

    #[test]
    fn start_command_ignores_the_takeover_drop_in() {
        assert_eq!(unit("").start_commands, ["/opt/haproxy -Ws"]);
        let first = CAT.split("# /etc").next().unwrap();
        assert_eq!(Unit::parse("a", "", first, "zz").start_commands, ["/usr/sbin/haproxy -Ws   -f $CONFIG"]);
    }

    #[test]
    fn variables_of_the_command_line_are_known() {
        let cat = "Environment=\"CONFIG=/etc/haproxy/a b.cfg\" EXTRAOPTS=-q SECRET=x PID=y\nEnvironment=PIDFILE=/run/%i.pid EXTRAOPTS=-m\n\
                   ExecStart=/usr/sbin/haproxy -Ws -f ${CONFIG} -p $PIDFILE $EXTRAOPTS\n";
        let command = Unit::parse("a", "", cat, "zz").command_with_variables().unwrap();
        let expected = [("CONFIG", "/etc/haproxy/a b.cfg"), ("EXTRAOPTS", "-m")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(command.default_environment, expected.into());
    }

    #[test]
    fn lines_are_read_as_systemd_does() {
        let cat = "[Service]\n ExecStartPre = /bin/mkdir -p /run/maps\nExecStart=/usr/sbin/haproxy -Ws \\\n# not yet: -S /run/m.sock\n  ; nor this\n  -f /a.cfg\n\
                   ExecReload\t=/bin/true\nExecStartPost=/x\n";
        let unit = Unit::parse("a", "", cat, "zz");
        assert_eq!(unit.start_commands, ["/usr/sbin/haproxy -Ws    -f /a.cfg"]);
        assert_eq!(unit.start_pre_commands, ["/bin/mkdir -p /run/maps"]);
        assert_eq!(unit.reload_commands, ["/bin/true"]);
    }

    /// The daemon would not find the files, or not replace the variables as systemd does.
    #[test]
    fn command_line_is_not_read_again_where_only_systemd_can_read_it() {
        let command = |file: &str, line: &str| {
            let cat = format!("EnvironmentFile={file}\nExecStart={line}\n");
            Unit::parse("a", "", &cat, "zz").command_with_variables()
        };
        const LINE: &str = "/usr/sbin/haproxy -Ws -f $CONFIG";
        assert!(command("-/etc/default/haproxy", LINE).is_some());
        assert!(command("-/etc/default/haproxy", "!@/usr/sbin/haproxy lb -Ws -f $CONFIG").is_some());
        for file in ["-/etc/default/haproxy-%i", "-/etc/default/haproxy.d/*.conf", "/etc/default/haproxy-[ab]"] {
            assert_eq!(command(file, LINE), None, "{file}");
        }
        assert_eq!(command("-/etc/default/haproxy", &format!(":{LINE}")), None);
    }

    #[test]
    fn plain_unit_has_no_obstacle() {
        let plain = "MainPID=12\nUser=\nPrivateUsers=no\nProtectProc=default\nProcSubset=all\nCapabilityBoundingSet=cap_chown cap_kill \
                     cap_net_admin cap_sys_ptrace\nRestrictAddressFamilies=\n";
        assert_eq!(unit(plain).obstacle(), None);
        assert_eq!((unit(plain).main_pid(), unit("MainPID=0").main_pid()), (Some(12), None));
    }

    #[test]
    fn start_and_reload_are_changes() {
        let is_changing =
            |state: &str, sub: &str| unit(&format!("ActiveState={state}\nSubState={sub}\n")).is_changing();
        assert!(is_changing("activating", "start") && is_changing("reloading", "reload-notify"));
        assert!(!is_changing("active", "running") && !is_changing("inactive", "dead"));
        assert!(!is_changing("activating", "auto-restart"));
    }

    #[test]
    fn each_obstacle_has_its_sentence() {
        let obstacle = |show| unit(show).obstacle().unwrap_or_default();
        assert!(obstacle("User=haproxy").contains("`haproxy`"));
        assert!(obstacle("TriggeredBy=haproxy.timer web.socket").starts_with("web.socket passes"));
        assert!(obstacle("TriggeredBy=haproxy.timer").is_empty());
        assert!(obstacle("ExecStop={ path=/bin/kill ; argv[]=… }").starts_with("ExecStop="));
        assert!(obstacle("CapabilityBoundingSet=cap_net_admin cap_kill").contains("CAP_SYS_PTRACE"));
        assert!(obstacle("RestrictAddressFamilies=AF_INET AF_UNIX").contains("AF_NETLINK"));
        assert!(obstacle("RestrictAddressFamilies=~AF_NETLINK").contains("AF_NETLINK"));
        assert!(obstacle("RestrictAddressFamilies=~").is_empty());
        assert!(obstacle("ProtectProc=invisible").contains("ProtectProc"));
        let restarts = "ExecStart=/a\nExecReload=/bin/sh -c 'dump; haproxy -D -f /a -sf $MAINPID'\n";
        assert!(Unit::parse("a", "", restarts, "x").obstacle().unwrap().contains("reloader reloads HAProxy itself"));
        assert!(Unit::parse("a", "", "ExecStart=/a\nExecStart=/b", "x").obstacle().unwrap().contains("2 commands"));
    }
}

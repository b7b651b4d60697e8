//! What systemd says of a unit, and whether it can be taken over. Pure.

use std::collections::BTreeMap;

/// Facts of a unit, from `systemctl show` and `systemctl cat`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// `haproxy.service`
    pub name: String,
    properties: BTreeMap<String, String>,
    /// The commands of `ExecStart=`, as its files have them, ours left out.
    pub starts: Vec<String>,
}

/// What the daemon cannot do without, as `systemctl show` writes it.
const CAPABILITIES: [&str; 3] = ["cap_kill", "cap_net_admin", "cap_sys_ptrace"];

impl Unit {
    /// From what both commands print; what stands in a file of this name is left out.
    pub(super) fn parse(name: &str, show: &str, cat: &str, own: &str) -> Unit {
        let pairs = show.lines().filter_map(|line| line.split_once('='));
        let properties = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Unit { name: name.into(), properties, starts: starts(cat, own) }
    }

    /// A property; empty where systemd gives none.
    pub(super) fn get(&self, property: &str) -> &str {
        self.properties.get(property).map_or("", String::as_str)
    }

    /// Its main process, where it has one.
    pub(super) fn main_pid(&self) -> Option<u32> {
        self.get("MainPID").parse().ok().filter(|pid| *pid != 0)
    }

    /// Why the daemon could not do in this unit what HAProxy does there, in a sentence.
    pub(super) fn obstacle(&self) -> Option<String> {
        let name = &self.name;
        if self.starts.len() != 1 {
            return Some(format!("it has {} commands in ExecStart=, and one is handed over", self.starts.len()));
        }
        if let Some(socket) = self.get("TriggeredBy").split_whitespace().find(|unit| unit.ends_with(".socket")) {
            return Some(format!(
                "{socket} passes it its sockets, and systemd would clear O_NONBLOCK of them while HAProxy serves on; write their addresses \
                 into HAProxy's configuration, reload it, and run `systemctl disable --now {socket}`"
            ));
        }
        for commands in ["ExecStop", "ExecStopPost", "ExecStartPost"] {
            if !self.get(commands).is_empty() {
                return Some(format!(
                    "{commands}= speaks to a HAProxy that is the unit's main process; remove it (`systemctl edit {name}`)"
                ));
            }
        }
        let user = self.get("User");
        if !matches!(user, "" | "root" | "0") || self.get("DynamicUser") == "yes" {
            return Some(format!(
                "it runs as `{user}`, and the daemon has to be root; let HAProxy change its user by `user` in its configuration"
            ));
        }
        for root in ["RootDirectory", "RootImage"] {
            if !self.get(root).is_empty() {
                return Some(format!("{root}= hides the daemon's program and files from it"));
            }
        }
        for (setting, open) in
            [("PrivateUsers", "no"), ("PrivateNetwork", "no"), ("ProtectProc", "default"), ("ProcSubset", "all")]
        {
            if !["", open].contains(&self.get(setting)) {
                return Some(format!(
                    "{setting}={} hides HAProxy's own sockets from the daemon; set it to {open}",
                    self.get(setting)
                ));
            }
        }
        let bounding: Vec<&str> = self.get("CapabilityBoundingSet").split_whitespace().collect();
        let lacking = CAPABILITIES.iter().find(|capability| !bounding.is_empty() && !bounding.contains(capability));
        if let Some(capability) = lacking {
            return Some(format!("CapabilityBoundingSet= lacks {}, which the daemon needs", capability.to_uppercase()));
        }
        let families = self.get("RestrictAddressFamilies");
        let is_denied = families.starts_with('~') == families.contains("AF_NETLINK");
        (!families.is_empty() && is_denied)
            .then(|| "RestrictAddressFamilies= lacks AF_NETLINK, by which the daemon reads who listens".into())
    }
}

/// The values of `ExecStart=` that hold: an empty one takes back those before it (systemd.service(5)).
fn starts(cat: &str, own: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_own = false;
    let joined = cat.replace("\\\n", " ");
    for line in joined.lines() {
        if let Some(path) = line.strip_prefix("# /") {
            is_own = path.ends_with(own);
        }
        match line.trim().strip_prefix("ExecStart=") {
            Some(_) if is_own => {}
            Some("") => found.clear(),
            Some(command) => found.push(command.trim().to_owned()),
            None => {}
        }
    }
    found
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
    fn the_command_is_the_last_that_holds_and_not_ours() {
        assert_eq!(unit("").starts, ["/opt/haproxy -Ws"]);
        let first = CAT.split("# /etc").next().unwrap();
        assert_eq!(Unit::parse("a", "", first, "zz").starts, ["/usr/sbin/haproxy -Ws   -f $CONFIG"]);
    }

    #[test]
    fn a_plain_unit_has_no_obstacle() {
        let plain = "MainPID=12\nUser=\nPrivateUsers=no\nProtectProc=default\nProcSubset=all\nCapabilityBoundingSet=cap_chown cap_kill \
                     cap_net_admin cap_sys_ptrace\nRestrictAddressFamilies=\n";
        assert_eq!(unit(plain).obstacle(), None);
        assert_eq!((unit(plain).main_pid(), unit("MainPID=0").main_pid()), (Some(12), None));
    }

    #[test]
    fn what_cannot_be_carried_over_is_said() {
        let said = |show| unit(show).obstacle().unwrap_or_default();
        assert!(said("User=haproxy").contains("`haproxy`"));
        assert!(said("TriggeredBy=haproxy.timer web.socket").starts_with("web.socket passes"));
        assert!(said("TriggeredBy=haproxy.timer").is_empty());
        assert!(said("ExecStop={ path=/bin/kill ; argv[]=… }").starts_with("ExecStop="));
        assert!(said("CapabilityBoundingSet=cap_net_admin cap_kill").contains("CAP_SYS_PTRACE"));
        assert!(said("RestrictAddressFamilies=AF_INET AF_UNIX").contains("AF_NETLINK"));
        assert!(said("RestrictAddressFamilies=~AF_NETLINK").contains("AF_NETLINK"));
        assert!(said("RestrictAddressFamilies=~").is_empty());
        assert!(said("ProtectProc=invisible").contains("ProtectProc"));
        assert!(Unit::parse("a", "", "ExecStart=/a\nExecStart=/b", "x").obstacle().unwrap().contains("2 commands"));
    }
}

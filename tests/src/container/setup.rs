//! Describes a container before it is started: its configuration and its privileges.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

use crate::config::Config;

use super::Container;

/// What an engine does between making the namespaces and running the entry point. `/sys` is that of the new network
/// namespace, with nothing mounted below it but control groups, if the test gives it any: no bpf file system.
const PREPARE: &str = "ip link set lo up; mount -t sysfs -o ro sysfs /sys; \
                       test -z \"$GROUPS_WRITABLE\" || mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount --bind /proc/sys /proc/sys; \
                       mount -o remount,bind,ro /proc/sys; hostname container; exec \"$@\"";

/// A container before it is started.
pub struct Setup {
    pub(super) config: String,
    tables: String,
    haproxy: PathBuf,
    confined: Option<(PathBuf, String)>,
    /// The capability that is taken away, as setpriv(1) names it.
    without: Option<String>,
    control_groups: bool,
    pub(super) user_namespace: bool,
    pub(super) runs_as_nobody: bool,
}

impl Setup {
    pub(super) fn new(config: &Config) -> Setup {
        Setup {
            config: config.to_string(),
            tables: String::new(),
            haproxy: "/usr/sbin/haproxy".into(),
            confined: None,
            without: None,
            control_groups: false,
            user_namespace: false,
            runs_as_nobody: false,
        }
    }

    /// Adds tables to reloader.toml, or lines before them.
    pub fn tables(mut self, text: &str) -> Setup {
        self.tables += &format!("{text}\n");
        self
    }

    /// Uses any executable in HAProxy's place.
    pub fn haproxy_at(mut self, path: &Path) -> Setup {
        self.haproxy = path.to_owned();
        self
    }

    /// Gives it docker's default capabilities, `added` (`--cap-add`), and docker's seccomp profile, by the program
    /// `contained`.
    pub fn contained(mut self, program: &str, added: &[&str]) -> Setup {
        let added = if added.is_empty() { "-".into() } else { added.join(",") };
        self.confined = Some((program.into(), added));
        self
    }

    /// Takes a capability away, as `--cap-drop` does.
    pub fn without(mut self, capability: &str) -> Setup {
        self.without = Some(capability.to_owned());
        self
    }

    /// Gives it its control group to write to, as an engine does that lets a container run an init system.
    pub fn with_control_groups(mut self) -> Setup {
        self.control_groups = true;
        self
    }

    /// Gives it a user namespace that has only root, as a rootless engine does.
    pub fn in_user_namespace(mut self) -> Setup {
        self.user_namespace = true;
        self
    }

    /// Runs it as `--user nobody --cap-drop ALL --security-opt no-new-privileges` does: an image whose `USER` is not
    /// root.
    pub fn as_nobody(mut self) -> Setup {
        self.runs_as_nobody = true;
        self.tables("control-group = \"nogroup\"")
    }

    /// Starts the container, and waits until a generation serves. Panics with the log if the container ends instead.
    #[track_caller]
    pub fn start(self) -> Container {
        let mut container = Container::start(self);
        container.until_ready();
        container
    }

    /// Starts a container that is expected to end by itself.
    #[track_caller]
    pub fn try_start(self) -> Container {
        Container::start(self)
    }

    pub(super) fn run(&self, words: &[String]) -> Command {
        assert!(geteuid().is_root(), "this test needs root to create namespaces; `cargo xtask test` runs it with sudo");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount", "--net", "--uts", "--ipc", "--cgroup"]);
        if self.user_namespace {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount-proc", "sh", "-ec", PREPARE, "sh"]).args(self.confined(&words));
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "FDSTORE"] {
            command.env_remove(name);
        }
        if self.control_groups {
            command.env("GROUPS_WRITABLE", "1");
        }
        // A Ctrl-C ends the test, which ends the container.
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// The words that run `words` with the privileges that the container is given.
    pub(super) fn confined(&self, words: &[&str]) -> Vec<String> {
        let words = words.iter().map(|word| (*word).to_owned());
        let confined = self.confined.iter();
        let before = confined.flat_map(|(program, added)| [program.display().to_string(), added.clone(), "--".into()]);
        let nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--bounding-set=-all"];
        let nobody = nobody.iter().chain(&["--inh-caps=-all", "--no-new-privs", "--"]).filter(|_| self.runs_as_nobody);
        let without = self.without.iter();
        let dropped = without.flat_map(|name| ["setpriv".into(), format!("--bounding-set=-{name}"), "--".into()]);
        before.chain(dropped).chain(nobody.map(|word| (*word).to_owned())).chain(words).collect()
    }

    pub(super) fn toml(&self, dir: &Path) -> String {
        let (dir, tables, haproxy) = (dir.display(), &self.tables, self.haproxy.display());
        format!(
            "control-socket = \"{dir}/run/control.sock\"\nruntime-dir = \"{dir}/run\"\nstate-dir = \"{dir}/state\"\n\
             {tables}\n[haproxy]\nbinary = \"{haproxy}\"\nconfig = [\"{dir}/haproxy.cfg\"]\n"
        )
    }
}

//! Describes a rig before its daemon is started.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::haproxy::{HaproxyBinary, default_program};

use super::Rig;

/// A rig before its daemon is started.
pub struct Setup {
    pub(super) reloader: Option<PathBuf>,
    pub(super) haproxy: PathBuf,
    pub(super) config: String,
    pub(super) top: String,
    pub(super) haproxy_lines: String,
    pub(super) tables: String,
    pub(super) environment: Vec<(String, String)>,
    pub(super) fd_store: bool,
    pub(super) has_haproxy: bool,
}

impl Setup {
    pub(super) fn new(config: &Config) -> Setup {
        Setup {
            reloader: None,
            haproxy: default_program(),
            config: config.to_string(),
            top: String::new(),
            haproxy_lines: String::new(),
            tables: String::new(),
            environment: Vec::new(),
            fd_store: false,
            has_haproxy: true,
        }
    }

    /// Uses another reloader than `RELOADER_BIN` or the one that cargo has built.
    pub fn reloader(mut self, path: &Path) -> Setup {
        self.reloader = Some(path.to_owned());
        self
    }

    /// Uses another HAProxy than the distribution's.
    pub fn haproxy(mut self, binary: &HaproxyBinary) -> Setup {
        self.haproxy.clone_from(&binary.path);
        self
    }

    /// Uses any executable in HAProxy's place.
    pub fn haproxy_at(mut self, path: &Path) -> Setup {
        self.haproxy = path.to_owned();
        self
    }

    /// Adds a line of reloader.toml before its tables: `on-stop = "retire"`.
    pub fn top(mut self, line: &str) -> Setup {
        self.top += &format!("{line}\n");
        self
    }

    /// Adds a line of `[haproxy]`: `args = ["-q"]`.
    pub fn haproxy_line(mut self, line: &str) -> Setup {
        self.haproxy_lines += &format!("{line}\n");
        self
    }

    /// Adds tables: `[reload]` and its lines. `DIR` stands for the rig's directory.
    pub fn tables(mut self, text: &str) -> Setup {
        self.tables += &format!("{text}\n");
        self
    }

    /// Adds a variable to the daemon's environment.
    pub fn environment(mut self, name: &str, value: &str) -> Setup {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Keeps what the daemon gives to the fd store, and passes it at each start, as systemd does. Without this the
    /// test's own process keeps no listener open.
    pub fn fd_store(mut self) -> Setup {
        self.fd_store = true;
        self
    }

    /// Leaves `[haproxy]` out: reloader.toml has only the given tables.
    pub fn without_haproxy(mut self) -> Setup {
        self.has_haproxy = false;
        self
    }

    /// Writes the files and starts nothing.
    pub fn prepare(self) -> Rig {
        Rig::prepare(self)
    }

    /// Writes the files, starts the daemon, and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Rig {
        let mut rig = self.prepare();
        rig.start_daemon();
        rig
    }

    pub(super) fn toml(&self, dir: &Path) -> String {
        let (dir, haproxy) = (dir.display(), self.haproxy.display());
        let Setup { top, haproxy_lines, tables, .. } = self;
        let haproxy = match self.has_haproxy {
            true => {
                format!("[haproxy]\nbinary = \"{haproxy}\"\nconfig = [\"{dir}/haproxy.cfg\"]\n{haproxy_lines}\n")
            }
            false => String::new(),
        };
        let tables = tables.replace("DIR", &dir.to_string());
        format!(
            "control-socket = \"{dir}/run/control.sock\"\nruntime-dir = \"{dir}/run\"\nstate-dir = \"{dir}/state\"\n{top}\n\
             {haproxy}{tables}"
        )
    }
}

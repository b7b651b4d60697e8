//! A machine before it is booted: what differs from Debian's.

use super::Machine;
use crate::config::Config;

/// A machine before it is booted.
#[derive(Debug, Default)]
pub struct Setup {
    pub(super) files: Vec<(String, String)>,
    pub(super) programs: Vec<(String, String)>,
    pub(super) removed: Vec<String>,
    /// Run in its root before it is booted.
    pub(super) commands: Vec<String>,
    /// Paths of links, and where they lead.
    pub(super) links: Vec<(String, String)>,
}

impl Setup {
    /// Text of a file in it, whose directories are made.
    pub fn file(mut self, path: &str, text: impl ToString) -> Setup {
        self.files.push((path.into(), text.to_string()));
        self
    }

    /// A script in it.
    pub fn program(mut self, path: &str, text: &str) -> Setup {
        self.programs.push((path.into(), text.into()));
        self
    }

    /// HAProxy's configuration, in Debian's place.
    pub fn haproxy(self, config: &Config) -> Setup {
        self.file("/etc/haproxy/haproxy.cfg", config)
    }

    /// The unit of this project is installed and starts with the machine; HAProxy's own does not.
    pub fn with_reloader_service(self) -> Setup {
        let unit = include_str!("../../../packaging/systemd/reloader.service");
        let wants = "/etc/systemd/system/multi-user.target.wants";
        let file = "/etc/systemd/system/reloader.service";
        let mut setup = self.file(file, unit);
        setup.removed.push(format!("{wants}/haproxy.service"));
        // systemd takes nothing but links there.
        setup.links.push((format!("{wants}/reloader.service"), file.into()));
        setup
    }

    /// The init script of this project is installed and started with the machine; HAProxy's own is not.
    pub fn with_init_script(self) -> Setup {
        let script = include_str!("../../../packaging/sysv/reloader");
        let mut setup = self.program("/etc/init.d/reloader", script);
        setup.commands = ["update-rc.d haproxy disable", "update-rc.d reloader defaults"].map(str::to_owned).to_vec();
        setup
    }

    /// Boot it by systemd, and wait until systemd has started everything; panics with a reason if it does not.
    #[track_caller]
    pub fn boot(self) -> Machine {
        Machine::boot(&self)
    }
}

//! Describes a machine before it is booted: how it differs from Debian's installation.

use super::Machine;
use crate::config::Config;

/// A machine before it is booted.
#[derive(Debug, Default)]
pub struct Setup {
    pub(super) files: Vec<(String, String)>,
    pub(super) programs: Vec<(String, String)>,
    pub(super) removed: Vec<String>,
    /// Commands that are run in its root before it is booted.
    pub(super) commands: Vec<String>,
    /// Symbolic links: their paths and their targets.
    pub(super) links: Vec<(String, String)>,
    pub(super) program_path: Option<String>,
    /// Whether rsyslog and logrotate are installed.
    pub(super) has_syslog: bool,
}

impl Setup {
    /// Adds a file with this text, and its directories.
    pub fn file(mut self, path: &str, text: impl ToString) -> Setup {
        self.files.push((path.into(), text.to_string()));
        self
    }

    /// Adds an executable script.
    pub fn program(mut self, path: &str, text: &str) -> Setup {
        self.programs.push((path.into(), text.into()));
        self
    }

    /// Adds a symbolic link. Its directory must be that of a file.
    pub fn link(mut self, path: &str, target: &str) -> Setup {
        self.links.push((path.into(), target.into()));
        self
    }

    /// Puts the program here instead of into /usr/local/bin, as cargo does before it is installed.
    pub fn program_at(mut self, path: &str) -> Setup {
        self.program_path = Some(path.into());
        self
    }

    /// Installs rsyslog and logrotate.
    pub fn with_syslog(mut self) -> Setup {
        self.has_syslog = true;
        self
    }

    /// Sets HAProxy's configuration, in the file that Debian uses.
    pub fn haproxy(self, config: &Config) -> Setup {
        self.file("/etc/haproxy/haproxy.cfg", config)
    }

    /// Installs this project's unit, which starts with the machine. HAProxy's own unit does not start.
    pub fn with_reloader_service(self) -> Setup {
        let unit = include_str!("../../../packaging/systemd/reloader.service");
        let wants = "/etc/systemd/system/multi-user.target.wants";
        let file = "/etc/systemd/system/reloader.service";
        let mut setup = self.file(file, unit);
        setup.removed.push(format!("{wants}/haproxy.service"));
        // systemd accepts only links in this directory.
        setup.links.push((format!("{wants}/reloader.service"), file.into()));
        setup
    }

    /// Installs this project's init script, which starts with the machine. HAProxy's own script does not start.
    pub fn with_init_script(self) -> Setup {
        let script = include_str!("../../../packaging/sysv/reloader");
        let mut setup = self.program("/etc/init.d/reloader", script);
        setup.commands = ["update-rc.d haproxy disable", "update-rc.d reloader defaults"].map(str::to_owned).to_vec();
        setup
    }

    pub(super) fn program_path(&self) -> &str {
        self.program_path.as_deref().unwrap_or("/usr/local/bin/reloader")
    }

    /// Boots the machine by systemd, and waits until systemd has started everything. Panics with a reason if it does
    /// not.
    #[track_caller]
    pub fn boot(self) -> Machine {
        Machine::boot(&self)
    }
}

//! Creates the root file systems of the machines once, and caches them outside the source tree.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::versions::apt::run;
use crate::versions::sources::mirror;

/// systemd 252, sysvinit 3.06, HAProxy 2.6.
const SUITE: &str = "bookworm";

/// One root file system: Debian's minimum and these packages.
struct Kind {
    init: &'static str,
    folder: &'static str,
    packages: &'static str,
}

const SYSTEMD: Kind =
    Kind { init: "systemd", folder: SUITE, packages: "systemd,systemd-sysv,dbus,iproute2,procps,haproxy" };

/// The same with rsyslog and logrotate.
const SYSLOG: Kind = Kind {
    init: "systemd and rsyslog",
    folder: "syslog",
    packages: "systemd,systemd-sysv,dbus,iproute2,procps,haproxy,rsyslog,logrotate",
};

const SYSVINIT: Kind =
    Kind { init: "sysvinit", folder: "sysvinit", packages: "sysvinit-core,sysv-rc,initscripts,haproxy" };

/// The path of the root with systemd. It is created if the cache does not have it, which needs `debootstrap` and root.
///
/// # Errors
/// If the root cannot be created.
pub fn fetch(cache: &Path) -> Result<PathBuf> {
    SYSTEMD.fetch(cache)
}

/// The path of the root with systemd, rsyslog and logrotate, as [`fetch`] gives it.
///
/// # Errors
/// If the root cannot be created.
pub(super) fn fetch_syslog(cache: &Path) -> Result<PathBuf> {
    SYSLOG.fetch(cache)
}

/// The path of the root with sysvinit, as [`fetch`] gives it.
///
/// # Errors
/// If the root cannot be created.
pub fn fetch_sysvinit(cache: &Path) -> Result<PathBuf> {
    SYSVINIT.fetch(cache)
}

impl Kind {
    fn fetch(&self, cache: &Path) -> Result<PathBuf> {
        let home = cache.join("booted");
        fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
        let lock = File::create(home.join("lock"))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        let (root, complete) = (home.join(self.folder).join("root"), home.join(self.folder).join("packages"));
        if fs::read_to_string(&complete).is_ok_and(|packages| packages == self.packages) {
            return Ok(root);
        }
        eprintln!("fetching a Debian {SUITE} with {} (debootstrap)", self.init);
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir_all(&root)?;
        let mirror = mirror()?;
        let mut command = Command::new("debootstrap");
        command.args(["--variant=minbase", &format!("--include={}", self.packages)]);
        command.args(mirror.signed_by.map(|keys| format!("--keyring={keys}")));
        command.arg(SUITE).arg(&root).arg(&mirror.uri);
        run(&mut command).with_context(|| format!("a Debian {SUITE} with {} is not available", self.init))?;
        // Written last: it marks the root as complete.
        fs::write(&complete, self.packages)?;
        Ok(root)
    }
}

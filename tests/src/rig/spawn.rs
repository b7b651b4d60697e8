//! Starts the rig's daemon and its commands.

use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use command_fds::{CommandFdExt, FdMapping};

use super::{Pending, Rig};

const FIRST_PASSED_FD: i32 = 3;

impl Rig {
    /// A command of reloader that was not started yet.
    pub fn reloader(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.setup.reloader.clone().unwrap_or_else(binary));
        command.arg("--config").arg(self.path("reloader.toml")).args(args);
        for name in
            ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "FDSTORE"]
        {
            command.env_remove(name);
        }
        command
    }

    /// A command for other users, who can read neither the checkout nor the rig's directory.
    pub(super) fn reloader_for_all(&self, args: &[&str]) -> Command {
        let own = self.reloader(args);
        let copy = self.path("reloader");
        // `cp` makes the copy. If this process wrote it, the program could be "busy": another test's child may have
        // inherited its descriptor for a moment.
        let copied = Command::new("cp").arg("--update").arg(own.get_program()).arg(&copy).status();
        assert!(copied.is_ok_and(|status| status.success()), "copying {}", copy.display());
        fs::set_permissions(self.dir(), Permissions::from_mode(0o755)).expect("chmod of the rig's directory");
        let mut command = Command::new(copy);
        command.args(own.get_args());
        for (name, _) in own.get_envs() {
            command.env_remove(name);
        }
        command
    }

    pub(super) fn spawn_daemon(&self) -> Pending {
        let daemon = self.reloader(&["daemon"]);
        // Only the process itself knows LISTEN_PID. The log collects the output of several daemons.
        let script =
            "LISTEN_PID=$$; [ -z \"$LISTEN_FDS\" ] || export LISTEN_PID; log=$1; shift; exec \"$@\" >>\"$log\" 2>&1";
        let mut command = Command::new("sh");
        command.args(["-c", script, "daemon"]).arg(self.path("daemon.log"));
        command.arg(daemon.get_program()).args(daemon.get_args());
        for (name, value) in daemon.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("NOTIFY_SOCKET", &self.notify.path);
        if self.setup.fd_store {
            command.env("FDSTORE", "100");
        }
        command.envs(self.setup.environment.iter().cloned());
        pass_stored(&mut command, self.notify.stored());
        Pending::start(command)
    }
}

fn pass_stored(command: &mut Command, stored: Vec<(String, OwnedFd)>) {
    if stored.is_empty() {
        return;
    }
    let names: Vec<String> = stored.iter().map(|(name, _)| name.clone()).collect();
    command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    let numbered = (FIRST_PASSED_FD..).zip(stored);
    let mappings = numbered.map(|(child_fd, (_, parent_fd))| FdMapping { parent_fd, child_fd }).collect();
    command.fd_mappings(mappings).expect("each number is used once");
}

/// The path of reloader: `RELOADER_BIN`, or the program that cargo has built beside this crate.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("RELOADER_BIN") {
        return path.into();
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let path = workspace.join(target).join("debug/reloader");
    assert!(File::open(&path).is_ok(), "{} is missing: run `cargo build -p reloader` first", path.display());
    path
}

//! Boots a Debian with sysvinit by util-linux's unshare over a disposable layer, which works in a guest too.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::unistd::geteuid;
use serde_json::Value;

use super::host::{first_process_under, path_inside, write_file};
use super::layer::Layer;
use super::{Setup, root};
use crate::process::Process;
use crate::proofs::{self, Init};
use crate::rig::{Answer, binary};
use crate::schema;
use crate::versions::cache_dir;
use crate::{guest, netns, poll};

/// A boot takes seconds on a host, and longer in a guest.
const BOOT: Duration = Duration::from_secs(300);

/// The directory of the root in a guest.
pub const IN_GUEST: &str = "/sysvinit";

/// The path of the program in the machine.
pub const PROGRAM: &str = "/usr/local/bin/reloader";

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Debian's inittab, with its console output redirected to `CONSOLE`.
const INITTAB: &str = "id:2:initdefault:\nsi::sysinit:/etc/init.d/rcS >>/console 2>&1\n\
                       l0:0:wait:/etc/init.d/rc 0 >>/console 2>&1\nl2:2:wait:/etc/init.d/rc 2 >>/console 2>&1\n";

const CONSOLE: &str = "/console";

/// Debian's init scripts for hardware. The kernel's clock and the disks belong to the host, and no namespace separates
/// them.
const HARDWARE: [&str; 6] = ["hwclock.sh", "brightness", "checkroot.sh", "checkfs.sh", "urandom", "mount-configfs"];

/// A running machine. When it is dropped, even by a panic, nothing of it is left.
pub struct SysVinit {
    unshare: Child,
    init: Option<Process>,
    /// Unmounted before its directory is removed.
    layer: Layer,
}

impl SysVinit {
    /// Boots the machine, and waits until its runlevel has been reached. Panics with a reason if it is not.
    #[track_caller]
    pub fn boot(setup: Setup) -> SysVinit {
        assert!(geteuid().is_root(), "this test boots a machine: it needs root; `cargo xtask test` runs it with sudo");
        // rc.local is the last step of the boot. `runlevel` already names a runlevel when that begins.
        let mut setup = setup.file("/etc/inittab", INITTAB).program("/etc/rc.local", "#!/bin/sh\ntouch /run/booted\n");
        for script in HARDWARE {
            setup = setup.program(&format!("/etc/init.d/{script}"), "#!/bin/sh\n");
        }
        // debootstrap has created this device node, which is the host's console.
        setup.removed.push("/dev/console".into());
        let layer = Layer::over(&find_root());
        layer.apply(&setup);
        layer.copy(&binary(), setup.program_path());
        for words in &setup.commands {
            let mut command = Command::new("chroot");
            command.arg(layer.merged()).args(words.split(' ')).env_clear().env("PATH", PATH);
            Answer::from_command(command).expect_status(0);
        }
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount", "--net", "--uts", "--ipc"]);
        command.arg(format!("--root={}", layer.merged().display())).args(["--mount-proc", "/sbin/init"]);
        command.env_clear().env("PATH", PATH).env("TERM", "dumb");
        let log = File::create(layer.log()).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        // A Ctrl-C ends the test, which ends the machine.
        command.process_group(0);
        let unshare = command.spawn().unwrap_or_else(|error| panic!("unshare (package util-linux): {error}"));
        let mut machine = SysVinit { unshare, init: None, layer };
        machine.until_booted();
        machine
    }

    fn until_booted(&mut self) {
        let mut init = None;
        poll::until(BOOT, "the machine's first process", || {
            if let Some(status) = self.unshare.try_wait().expect("waiting for a child") {
                panic!("unshare ended, {status}:\n{}", self.log());
            }
            init = first_process_under(self.unshare.id());
            init.is_some()
        });
        self.init = init;
        poll::until(BOOT, "the machine's runlevel", || self.inside("/run/booted").exists());
    }

    /// The text that the machine wrote to its console.
    pub fn log(&self) -> String {
        let console = self.layer.merged().join(CONSOLE.trim_start_matches('/'));
        [self.layer.log(), console].map(|path| fs::read_to_string(path).unwrap_or_default()).concat()
    }

    /// Moves the calling thread into the machine's network. What is started from it is a client there.
    pub fn enter_network(&self) {
        netns::enter_that_of(self.init());
        netns::ip(&["link", "set", "lo", "up"]);
    }

    /// Runs a command in the machine.
    pub fn run(&self, words: &[&str]) -> Answer {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init().pid.to_string(), "--mount", "--pid", "--net", "--uts", "--ipc"]);
        command.args(["--root", "--wd", "--"]).args(words);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C");
        Answer::from_command(command)
    }

    /// Runs a command of reloader in the machine.
    pub fn reloader(&self, words: &[&str]) -> Answer {
        self.run(&[&["reloader"], words].concat())
    }

    /// Writes a file in the machine.
    pub fn write(&self, path: &str, text: impl ToString) {
        write_file(&self.inside(path), &text.to_string());
    }

    /// A path of the machine as this process sees it, including the machine's mounts.
    pub fn inside(&self, path: &str) -> PathBuf {
        path_inside(self.init(), path)
    }

    /// Waits until the first process has ended.
    #[track_caller]
    pub fn until_off(&self) {
        self.init().until_gone(BOOT);
    }

    fn init(&self) -> Process {
        self.init.expect("a machine that has begun to boot")
    }
}

impl Drop for SysVinit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the machine's console:\n{}", self.log());
            let log = self.init.map(|_| fs::read_to_string(self.inside("/var/log/reloader.log")).unwrap_or_default());
            eprintln!("the daemon's log:\n{}", log.unwrap_or_default());
        }
        let mut receipts = Value::Null;
        if self.init.is_some_and(|init| init.is_alive()) {
            let (state, config) = (self.inside("/var/lib/reloader"), self.inside("/etc/reloader/reloader.toml"));
            receipts = proofs::print(&state, &config, Init::SysVinit);
        }
        // When the first process ends, the kernel ends all others, whatever state they are in.
        match self.init {
            Some(init) => init.end(),
            None => drop(self.unshare.kill()),
        }
        let _ = self.unshare.wait();
        schema::assert_fits_at_the_end(&receipts);
    }
}

fn find_root() -> PathBuf {
    if guest::is_guest() {
        return Path::new(IN_GUEST).to_owned();
    }
    netns::outside(|| root::fetch_sysvinit(&cache_dir())).unwrap_or_else(|error| panic!("{error:#}"))
}

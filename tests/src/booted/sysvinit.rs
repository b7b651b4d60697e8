//! A machine whose PID 1 is sysvinit: util-linux's unshare over a throw-away layer, so that it boots in a guest too.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::unistd::geteuid;
use serde_json::Value;

use super::host::first_process_under;
use super::layer::Layer;
use super::{Setup, root};
use crate::process::Process;
use crate::proofs::{self, Init};
use crate::rig::{Answer, binary};
use crate::schema;
use crate::versions::cache_dir;
use crate::{guest, netns, poll};

/// It takes seconds on a host.
const BOOT: Duration = Duration::from_secs(300);

/// Where a guest finds the root.
pub const IN_GUEST: &str = "/sysvinit";

/// Where the program is in the machine.
pub const PROGRAM: &str = "/usr/local/bin/reloader";

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Debian's own, but for the consoles: what is said there goes to `CONSOLE`.
const INITTAB: &str = "id:2:initdefault:\nsi::sysinit:/etc/init.d/rcS >>/console 2>&1\n\
                       l0:0:wait:/etc/init.d/rc 0 >>/console 2>&1\nl2:2:wait:/etc/init.d/rc 2 >>/console 2>&1\n";

const CONSOLE: &str = "/console";

/// What Debian starts for hardware: the kernel's clock and disks are the host's, and no namespace is between.
const HARDWARE: [&str; 6] = ["hwclock.sh", "brightness", "checkroot.sh", "checkfs.sh", "urandom", "mount-configfs"];

/// A machine that runs. Dropped, even by a panic, it leaves nothing behind.
pub struct SysVinit {
    unshare: Child,
    init: Option<Process>,
    /// Unmounted before its directory is removed.
    layer: Layer,
}

impl SysVinit {
    /// Boot it, and wait until its runlevel has been reached; panics with a reason if it is not.
    #[track_caller]
    pub fn boot(setup: Setup) -> SysVinit {
        assert!(geteuid().is_root(), "this test boots a machine: it needs root; `cargo xtask test` runs it with sudo");
        // Its last word: `runlevel` names a runlevel when it begins.
        let mut setup = setup.file("/etc/inittab", INITTAB).program("/etc/rc.local", "#!/bin/sh\ntouch /run/booted\n");
        for script in HARDWARE {
            setup = setup.program(&format!("/etc/init.d/{script}"), "#!/bin/sh\n");
        }
        // debootstrap has made the device, which is the host's.
        setup.removed.push("/dev/console".into());
        let layer = Layer::over(&find_root());
        layer.lay(&setup);
        layer.copy(&binary(), PROGRAM);
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

    /// What it wrote to its console.
    pub fn log(&self) -> String {
        let console = self.layer.merged().join(CONSOLE.trim_start_matches('/'));
        [self.layer.log(), console].map(|path| fs::read_to_string(path).unwrap_or_default()).concat()
    }

    /// Move the calling thread to its network: what is started from it is a client there.
    pub fn enter_network(&self) {
        let namespace = File::open(format!("/proc/{}/ns/net", self.init().pid)).expect("the machine's network");
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
        netns::ip(&["link", "set", "lo", "up"]);
        netns::sysctl("net/ipv4/ip_local_port_range", &format!("{} 65535", netns::FIRST_CLIENT_PORT));
        netns::sysctl("net/ipv4/tcp_max_syn_backlog", "4096");
    }

    /// Run a command in it.
    pub fn run(&self, words: &[&str]) -> Answer {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init().pid.to_string(), "--mount", "--pid", "--net", "--uts", "--ipc"]);
        command.args(["--root", "--wd", "--"]).args(words);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C");
        Answer::from_command(command)
    }

    /// `reloader … --json`, or any other command of it.
    pub fn reloader(&self, words: &[&str]) -> Answer {
        self.run(&[&["reloader"], words].concat())
    }

    /// Write a file in it.
    pub fn write(&self, path: &str, text: impl ToString) {
        let file = self.inside(path);
        fs::create_dir_all(file.parent().expect("a file is in a directory")).expect("its directory");
        fs::write(file, text.to_string()).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// A path of the machine as this process sees it, mounts of the machine included.
    pub fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init().pid))
    }

    /// Wait until its first process has ended.
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
        // The end of its first process is the end of all others, whatever state they are in.
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

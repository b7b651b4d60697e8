//! PID 1 of a guest: mounts, loads the modules, runs what the plan says, prints the verdicts and powers off.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use reloader_tests::guest;
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};
use serde_json::Value;

/// The serial line that is the host's standard output; the first is the kernel's.
const OUTPUT: &str = "/dev/ttyS1";

const OPEN_FILES: u64 = 65_536;

fn main() {
    if let Err(error) = boot() {
        eprintln!("guest-init: {error:#}");
    }
    // Its error has no reader: a PID 1 that ends makes the kernel panic, which ends the guest as well.
    let _ = reboot(RebootCommand::PowerOff);
}

fn boot() -> Result<()> {
    mount_all()?;
    let mut output = OpenOptions::new().write(true).open(OUTPUT).context(OUTPUT)?;
    let result = run(&mut output);
    if let Err(error) = &result {
        writeln!(output, "guest-init: {error:#}")?;
    }
    writeln!(output, "{}", guest::END)?;
    rustix::termios::tcdrain(&output)?;
    Ok(())
}

fn mount_all() -> Result<()> {
    for (kind, path) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("bpf", "/sys/fs/bpf"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("debugfs", "/sys/kernel/debug"),
    ] {
        // Those in a virtual file system are there already, and refuse to be made.
        let _ = fs::create_dir_all(path);
        mount(kind, path, kind, MountFlags::empty(), None).with_context(|| format!("mounting {path}"))?;
    }
    Ok(())
}

fn run(output: &mut File) -> Result<()> {
    let plan: Value = serde_json::from_str(&fs::read_to_string("/plan.json")?)?;
    for path in strings(&plan["modules"]) {
        load_module(&path).with_context(|| format!("loading {path}"))?;
    }
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)?;
    let lo = Command::new("ip").args(["link", "set", "lo", "up"]).env("PATH", PATH).status()?;
    if !lo.success() {
        bail!("ip link set lo up: {lo}");
    }
    for words in plan["commands"].as_array().into_iter().flatten().map(strings) {
        let status = run_command(&words, &plan["environment"], output)?;
        writeln!(output, "{}", guest::verdict_line(status))?;
    }
    Ok(())
}

const PATH: &str = "/programs:/usr/sbin:/usr/bin";

fn load_module(path: &str) -> Result<()> {
    match finit_module(File::open(path)?, c"", 0) {
        // A module that another one has asked for meanwhile.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn run_command(words: &[String], environment: &Value, output: &File) -> Result<i32> {
    let (program, arguments) = words.split_first().context("a command without words")?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/tmp").env_clear();
    command.envs([("PATH", PATH), ("HOME", "/root"), ("TMPDIR", "/tmp"), ("RELOADER_BIN", "/programs/reloader")]);
    command.envs([("RELOADER_GUEST", "1"), ("LC_ALL", "C.UTF-8")]);
    for pair in environment.as_array().into_iter().flatten().map(strings) {
        command.env(&pair[0], &pair[1]);
    }
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    match command.spawn() {
        Ok(child) => until_it_ends(Pid::from_raw(child.id().cast_signed())),
        Err(error) => {
            writeln!(&*output, "guest-init: {program}: {error}")?;
            Ok(127)
        }
    }
}

/// Takes all that end meanwhile: the orphans of a whole machine are children of its PID 1.
fn until_it_ends(child: Pid) -> Result<i32> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => return Ok(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => bail!("waiting for the program: {errno}"),
        }
    }
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
}

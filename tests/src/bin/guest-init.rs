//! PID 1 of a guest: mounts file systems, loads modules, runs the commands of the plan, prints their verdicts and
//! powers off.
#![expect(clippy::disallowed_methods, reason = "PID 1 of a guest waits for everything that it starts")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use reloader_tests::guest;
use reloader_tests::isolation::KILLED;
use reloader_tests::process::{exit_code, reap_until_ended};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};
use serde_json::Value;

/// The serial line that is the host's standard output. The first line is the kernel's console.
const OUTPUT: &str = "/dev/ttyS1";

const OPEN_FILES: u64 = 65_536;

fn main() {
    if let Err(error) = boot() {
        eprintln!("guest-init: {error:#}");
    }
    // An error needs no report: if PID 1 ends, the kernel panics, which ends the guest as well.
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
        // Directories in virtual file systems exist already, and cannot be created.
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
    for command in plan["commands"].as_array().into_iter().flatten() {
        let limit = Duration::from_secs(command["limit-s"].as_u64().context("a command without a limit")?);
        let status = run_command(&strings(&command["words"]), limit, &plan["environment"], output)?;
        end_everything();
        // The verdict gets its own line, whatever a process has written before.
        writeln!(output, "\n{}", guest::verdict_line(status))?;
    }
    Ok(())
}

const PATH: &str = "/programs:/usr/sbin:/usr/bin";

fn load_module(path: &str) -> Result<()> {
    match finit_module(File::open(path)?, c"", 0) {
        // Another module has already loaded this one as its dependency.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn run_command(words: &[String], limit: Duration, environment: &Value, output: &File) -> Result<i32> {
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
        Ok(child) => {
            let watchdog = Watchdog::start(limit);
            let status = reap_until_ended(Pid::from_raw(child.id().cast_signed()))?;
            if watchdog.has_killed() {
                writeln!(&*output, "killed after its limit of {} s", limit.as_secs())?;
                return Ok(KILLED);
            }
            Ok(exit_code(status))
        }
        Err(error) => {
            writeln!(&*output, "guest-init: {program}: {error}")?;
            Ok(127)
        }
    }
}

/// Ends what a command has left running, before the next command is run.
fn end_everything() {
    kill_everything();
    while waitpid(None, None).is_ok_and(|status| status != WaitStatus::StillAlive) {}
}

fn kill_everything() {
    // All but PID 1, which is this process.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
}

/// Kills every other process when a command has taken too long.
struct Watchdog {
    has_ended: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watchdog {
    fn start(limit: Duration) -> Watchdog {
        let (has_ended, ended) = channel();
        let thread = std::thread::spawn(move || {
            let is_late = ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if is_late {
                kill_everything();
            }
            is_late
        });
        Watchdog { has_ended, thread }
    }

    fn has_killed(self) -> bool {
        let _ = self.has_ended.send(());
        self.thread.join().unwrap_or(false)
    }
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
}

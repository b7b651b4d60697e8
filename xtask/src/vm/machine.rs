//! Runs a guest in QEMU, from its start to the verdicts of its commands.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use command_fds::{CommandFdExt, FdMapping};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use reloader_tests::guest;
use reloader_tests::isolation::IdleGroup;
use reloader_tests::kernels::Kernel;

use super::accelerator::Accelerator;
use crate::interrupt;

const MEGABYTES: &str = "768";

/// The kernel's command line. 141 is cmpxchg16b: QEMU 7.2 sometimes corrupts the flags around it, and Linux 6.12 allocates memory with it,
/// which ended in a double fault. Only the kernel is told that the processor lacks it, because HAProxy does not run without it.
pub(super) const COMMAND_LINE: &str =
    "console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable nokaslr clearcpuid=141";

/// The archive has no path: QEMU opens it by this inherited descriptor.
const INITRAMFS_FD: i32 = 3;

/// How often limit and interruption are checked while a guest prints nothing.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How many times its limit a guest may take on this machine's clock, because it may have to wait for the processor.
const CLOCK_FACTOR: u32 = 20;

/// A running guest. On drop, its QEMU is killed.
pub(super) struct Machine {
    qemu: Child,
    lines: Receiver<String>,
    began: Instant,
    /// The clock of QEMU's processor time, if the guest is emulated.
    processor_time: Option<ClockId>,
}

impl Machine {
    /// Starts QEMU. The kernel's messages are written to `console`.
    pub(super) fn start(
        kernel: &Kernel,
        initramfs: File,
        console: &Path,
        accelerator: &Accelerator,
        idle_group: Option<&IdleGroup>,
    ) -> Result<Machine> {
        // If this process is killed, the kernel ends QEMU.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(accelerator.arguments());
        command.args(["-M", "pc", "-smp", "1", "-m", MEGABYTES]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"]);
        // Two serial lines keep the output of the programs apart from the kernel's messages.
        command.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        command.arg("-kernel").arg(&kernel.image).args(["-initrd", &format!("/proc/self/fd/{INITRAMFS_FD}")]);
        command.args(["-append", COMMAND_LINE]);
        command.fd_mappings(vec![FdMapping { parent_fd: initramfs.into(), child_fd: INITRAMFS_FD }])?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let errors = console.with_extension("qemu");
        command.stderr(File::create(&errors).with_context(|| errors.display().to_string())?);
        let mut qemu = command.spawn().context("running setpriv (package util-linux)")?;
        let output = qemu.stdout.take().context("a pipe")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(output);
            let mut bytes = Vec::new();
            while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
                let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
                bytes.clear();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut machine = Machine { qemu, lines, began: Instant::now(), processor_time: None };
        if let Some(group) = idle_group {
            group.add(machine.qemu.id())?;
        }
        if matches!(accelerator, Accelerator::Emulated(_)) {
            let pid = Pid::from_raw(machine.qemu.id().cast_signed());
            machine.processor_time = Some(clock_getcpuclockid(pid).context("the processor time of QEMU")?);
        }
        Ok(machine)
    }

    /// Waits for the end of the guest and gives the exit status of each of its commands.
    ///
    /// `on_line` gets each line that the guest prints, and the cost of the guest until then: the processor time of its emulator, which does
    /// not depend on other work on this machine, or with KVM the time on this machine's clock. A guest whose cost reaches the limit is ended.
    pub(super) fn run(
        mut self,
        limit: Duration,
        console: &Path,
        mut on_line: impl FnMut(&str, Duration),
    ) -> Result<Vec<i32>> {
        let mut verdicts = Vec::new();
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(POLL_INTERVAL) {
                Ok(text) if text == guest::END => return Ok(verdicts),
                Ok(text) => {
                    on_line(&text, self.cost());
                    verdicts.extend(guest::verdict(&text));
                }
                Err(RecvTimeoutError::Timeout) if !self.is_late(limit) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the guest still runs after {limit:?}\n{}", last_words(console))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.qemu.wait()?;
                    bail!("the guest ended without a verdict, QEMU with {status}\n{}", last_words(console));
                }
            }
        }
    }

    /// Whether the guest has reached its limit, or has taken too long on this machine's clock.
    fn is_late(&self, limit: Duration) -> bool {
        self.cost() >= limit || self.began.elapsed() >= limit * CLOCK_FACTOR
    }

    fn cost(&self) -> Duration {
        let processor_time = self.processor_time.and_then(|clock| clock_gettime(clock).ok());
        processor_time.map_or_else(|| self.began.elapsed(), Duration::from)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The last lines of the kernel and of QEMU.
fn last_words(console: &Path) -> String {
    let files = [console.to_owned(), console.with_extension("qemu")].map(|path| fs::read(path).unwrap_or_default());
    let text = files.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

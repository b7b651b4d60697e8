//! QEMU, from its start to the verdict of the guest.

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

/// 141 is cmpxchg16b: QEMU 7.2 now and then spoils the flags around it, and 6.12 allocates memory with it, which ended in a
/// double fault. Only the kernel is told that there is none: HAProxy does not run without.
pub(super) const COMMAND_LINE: &str =
    "console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable nokaslr clearcpuid=141";

/// The archive has no name in any directory: QEMU opens it by the descriptor that it is given.
const INITRAMFS_FD: i32 = 3;

/// How often a guest that says nothing is given up if this run was interrupted.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A guest that waits for its turn may take so many times its limit by the clock.
const MOST_WAITING: u32 = 20;

/// A guest that runs. Dropped, its QEMU is killed.
pub(super) struct Machine {
    qemu: Child,
    lines: Receiver<String>,
    began: Instant,
    /// Where the guest is emulated.
    processor_time: Option<ClockId>,
}

impl Machine {
    /// `console` takes what the kernel says.
    pub(super) fn start(
        kernel: &Kernel,
        initramfs: File,
        console: &Path,
        accelerator: &Accelerator,
        idle_group: Option<&IdleGroup>,
    ) -> Result<Machine> {
        // The kernel, not we, ends it when we are killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(accelerator.arguments());
        command.args(["-M", "pc", "-smp", "1", "-m", MEGABYTES]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"]);
        // Two lines: what the programs say is not interspersed with what the kernel says.
        command.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        command.arg("-kernel").arg(&kernel.image).args(["-initrd", &format!("/proc/self/fd/{INITRAMFS_FD}")]);
        command.args(["-append", COMMAND_LINE]);
        command.fd_mappings(vec![FdMapping { parent_fd: initramfs.into(), child_fd: INITRAMFS_FD }])?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let said = console.with_extension("qemu");
        command.stderr(File::create(&said).with_context(|| said.display().to_string())?);
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

    /// Passes each line on, with what the guest has cost until then: the time of its emulator, which does not depend on what else
    /// this machine does, or else that of a clock. Ends the guest when it has cost as much as the limit. Gives the exit status of each
    /// of its commands.
    pub(super) fn run(
        mut self,
        limit: Duration,
        console: &Path,
        mut line: impl FnMut(&str, Duration),
    ) -> Result<Vec<i32>> {
        let mut verdicts = Vec::new();
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(POLL_INTERVAL) {
                Ok(text) if text == guest::END => return Ok(verdicts),
                Ok(text) => {
                    line(&text, self.cost());
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

    /// One that gets no time at all is late as well.
    fn is_late(&self, limit: Duration) -> bool {
        self.cost() >= limit || self.began.elapsed() >= limit * MOST_WAITING
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

fn last_words(console: &Path) -> String {
    let said = [console.to_owned(), console.with_extension("qemu")].map(|path| fs::read(path).unwrap_or_default());
    let said = said.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

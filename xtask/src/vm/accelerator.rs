//! Chooses how a guest is run: by the processor itself where KVM answers, else by QEMU's emulation.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// QEMU's monitor answers at once where a virtual machine can be made.
const LIMIT: Duration = Duration::from_secs(10);

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// One of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The guest's clock is this machine's.
    Kvm,
    /// The guest's clock counts its instructions. With the reason why it is not KVM.
    Emulated(String),
}

impl Accelerator {
    /// KVM, if a virtual machine can be made with it: that the device is there says little.
    pub(super) fn probed(logs: &Path) -> Accelerator {
        match probe(logs) {
            Ok(()) => Accelerator::Kvm,
            Err(error) => Accelerator::Emulated(format!("{error:#}")),
        }
    }

    /// For chrt(1). An emulated guest does not notice when it has to wait, so it is the one that waits.
    pub(super) fn schedule(&self) -> [&'static str; 2] {
        match self {
            Accelerator::Kvm => ["--other", "0"],
            Accelerator::Emulated(_) => ["--idle", "0"],
        }
    }

    /// For QEMU.
    pub(super) fn arguments(&self) -> &'static [&'static str] {
        match self {
            Accelerator::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // Two nanoseconds an instruction, and idle time passes at once. By the host's clock an emulated machine carries a
            // few hundred connections a second, fewer whenever the host does something else, and what is seen as slow or
            // lost says nothing about reloader.
            Accelerator::Emulated(_) => &["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off", "-cpu", "max"],
        }
    }
}

/// A machine without anything, which runs until it has been seen to run.
fn probe(logs: &Path) -> Result<()> {
    File::options().read(true).write(true).open("/dev/kvm").context("/dev/kvm")?;
    let folder = tempfile::tempdir_in(logs)?;
    let (messages, words) = (folder.path().join("qemu"), folder.path().join("firmware"));
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    command.args(["-accel", "kvm", "-cpu", "host", "-M", "pc", "-m", "32", "-nodefaults", "-display", "none"]);
    // The firmware's last word, by the port that it has for this: it takes a processor that executes.
    command.arg("-chardev").arg(format!("file,id=firmware,path={}", words.display()));
    command.args(["-device", "isa-debugcon,iobase=0x402,chardev=firmware"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&messages)?);
    let mut qemu = command.spawn().context("running setpriv (package util-linux)")?;
    let deadline = Instant::now() + LIMIT;
    let result = loop {
        if std::fs::metadata(&words).is_ok_and(|file| file.len() > 0) {
            break Ok(());
        }
        if let Ok(Some(status)) = qemu.try_wait() {
            let why = std::fs::read_to_string(&messages).unwrap_or_default();
            break Err(anyhow::anyhow!("QEMU ended with {status}: {}", why.lines().next().unwrap_or_default()));
        }
        if Instant::now() > deadline {
            break Err(anyhow::anyhow!("the firmware of a guest said nothing within {LIMIT:?}"));
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    let _ = qemu.kill();
    let _ = qemu.wait();
    if let Err(error) = result {
        bail!("KVM does not answer: {error}");
    }
    Ok(())
}

//! Chooses how a guest is run: by the processor itself where KVM answers, else by QEMU's emulation.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};

/// Of an emulated guest: `rep movsb` is emulated byte by byte, so the kernel must not take it for fast.
const PROCESSOR: &str = "max,erms=off,fsrm=off";

/// One of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The guest's clock is this machine's.
    Kvm,
    /// The guest's clock counts its instructions. With the reason why it is not KVM.
    Emulated(String),
}

impl Accelerator {
    /// For QEMU.
    pub(super) fn arguments(&self) -> &'static [&'static str] {
        match self {
            Accelerator::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // Two nanoseconds an instruction, and idle time passes at once. By the host's clock an emulated machine carries a
            // few hundred connections a second, fewer whenever the host does something else, and what is seen as slow or
            // lost says nothing about reloader.
            Accelerator::Emulated(_) => {
                &["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off", "-cpu", PROCESSOR]
            }
        }
    }
}

/// An error where KVM cannot be there. Without it a guest has to be tried: a device that answers may still run no Linux.
pub(super) fn may_have_kvm() -> Result<()> {
    File::options().read(true).write(true).open("/dev/kvm").context("/dev/kvm")?;
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let can_virtualize = processor.split_whitespace().any(|word| matches!(word, "vmx" | "svm"));
    ensure!(can_virtualize, "/dev/kvm is there, but the processor has neither vmx nor svm");
    Ok(())
}

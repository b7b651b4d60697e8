//! Chooses how a guest runs: on the processor itself where KVM works, otherwise in QEMU's emulation.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};

/// The processor of an emulated guest. QEMU emulates `rep movsb` byte by byte, so the kernel must not consider it fast.
const PROCESSOR: &str = "max,erms=off,fsrm=off";

/// How a guest's instructions are executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// By KVM. The guest's clock is this machine's.
    Kvm,
    /// By emulation, with the reason why KVM is not used. The guest's clock counts its instructions.
    Emulated(String),
}

impl Accelerator {
    /// QEMU's arguments.
    pub(super) fn arguments(&self) -> &'static [&'static str] {
        match self {
            Accelerator::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // An instruction takes two nanoseconds, and idle time is skipped. On the host's clock an emulated machine would carry a few
            // hundred connections a second, fewer whenever the host is busy, and slow or lost connections would say nothing about reloader.
            Accelerator::Emulated(_) => {
                &["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off", "-cpu", PROCESSOR]
            }
        }
    }
}

/// Checks whether KVM may work. Only a boot proves it: a device that answers may still be unable to run Linux.
///
/// # Errors
/// If KVM cannot work.
pub(super) fn may_have_kvm() -> Result<()> {
    File::options().read(true).write(true).open("/dev/kvm").context("/dev/kvm")?;
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let can_virtualize = processor.split_whitespace().any(|word| matches!(word, "vmx" | "svm"));
    ensure!(can_virtualize, "/dev/kvm exists, but the processor has neither vmx nor svm");
    Ok(())
}

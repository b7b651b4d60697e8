//! The programs of the eBPF gate, in the process that has loaded them. A guard does not have them.

use aya::Ebpf;
use aya::programs::SchedClassifier;
use reloader_ebpf::HeldKey;

use super::error::EbpfError;
use super::maps::RING;
use crate::gate::attachment::{Attachment, Hook};
use crate::gate::contract::Spec;
use crate::gate::failures::{Failures, joined};
use crate::gate::programs::{self, BACK_PROGRAM, HOLD_OBJECT, HOLD_PROGRAM, ProgramsError};
use crate::kernel::devices::{Device, LO};
use crate::kernel::tc::Direction;

/// What a holder needs in addition to what a guard needs.
pub(super) struct LoadedPrograms {
    pub(super) ebpf: Ebpf,
    pub(super) spec: Spec,
    /// How programs are attached, `None` until one was attached.
    pub(super) hook: Option<Hook>,
    /// What the programs look up, with the verdict of each.
    pub(super) keys: Vec<(HeldKey, u32)>,
    pub(super) armed: bool,
}

impl LoadedPrograms {
    /// Attaches both programs to one device. The program at egress comes first, because SYNs may be parked as soon as the other one is
    /// there. Returns nothing where the device has gone.
    pub(super) fn attach(&mut self, device: &Device) -> Result<Vec<Attachment>, EbpfError> {
        let mut attachments = Vec::new();
        let places = [(BACK_PROGRAM, Direction::Egress), (HOLD_PROGRAM, Direction::Ingress)];
        for (name, direction) in places {
            if (device.index, direction) == (LO, Direction::Egress) {
                continue;
            }
            let program = program(&mut self.ebpf, name)?;
            match Attachment::attach(program, &mut self.hook, device, direction, self.spec.id) {
                Ok(attachment) => attachments.extend(attachment),
                Err(error) => return Err(joined(EbpfError::attach(error), detach(attachments))),
            }
        }
        Ok(attachments)
    }
}

/// Detaches the programs from devices that no longer hand packets to IP, or have gone. True where there were any, beside what failed.
pub(super) fn detach_from_gone_devices(
    attachments: &mut Vec<Attachment>,
    receivers: &[&Device],
) -> (bool, Option<EbpfError>) {
    let stays = |attachment: &mut Attachment| receivers.iter().any(|device| device.index == attachment.device.index);
    let gone: Vec<_> = attachments.extract_if(.., |attachment| !stays(attachment)).collect();
    (!gone.is_empty(), detach(gone))
}

/// Detaches in the reverse order: the first attachment on a device has added its `clsact`. Returns what failed.
pub(super) fn detach(attachments: Vec<Attachment>) -> Option<EbpfError> {
    let detached = attachments.into_iter().rev().map(Attachment::remove);
    detached.filter_map(Result::err).map(EbpfError::detach).collect::<Failures<_>>().into_error()
}

/// Loads the programs. `capacity` is the size of the ring in bytes.
pub(super) fn load(capacity: u32) -> Result<Ebpf, ProgramsError> {
    let mut ebpf = programs::load(HOLD_OBJECT, |loader| {
        loader.map_max_entries(RING, capacity);
    })?;
    for name in [HOLD_PROGRAM, BACK_PROGRAM] {
        program(&mut ebpf, name)?.load().map_err(|error| ProgramsError::from_error(&error))?;
    }
    Ok(ebpf)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, ProgramsError> {
    programs::program(ebpf, name)
}

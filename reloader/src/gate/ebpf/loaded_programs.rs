//! What it takes to hold, and a guard has not.

use aya::Ebpf;
use aya::programs::SchedClassifier;
use reloader_ebpf::HeldKey;

use super::super::attachment::{Attachment, Hook};
use super::super::hold::Spec;
use super::super::programs::{self, BACK_PROGRAM, HOLD_OBJECT, HOLD_PROGRAM, ProgramsError};
use super::error::EbpfError;
use super::maps::RING;
use crate::kernel::devices::{Device, LO};
use crate::kernel::tc::Direction;

/// What it takes to hold, beside what it takes to release.
pub(super) struct LoadedPrograms {
    pub(super) ebpf: Ebpf,
    pub(super) spec: Spec,
    pub(super) hook: Option<Hook>,
    pub(super) keys: Vec<(HeldKey, u32)>,
    pub(super) armed: bool,
}

impl LoadedPrograms {
    /// Both programs, on one device: the way back first, because from the other on SYNs may be parked.
    pub(super) fn attach(&mut self, device: &Device) -> Result<Vec<Attachment>, EbpfError> {
        let mut attachments = Vec::new();
        let ways = [(BACK_PROGRAM, Direction::Egress), (HOLD_PROGRAM, Direction::Ingress)];
        for (name, direction) in ways {
            if (device.index, direction) == (LO, Direction::Egress) {
                continue;
            }
            let program = program(&mut self.ebpf, name)?;
            match Attachment::make(program, &mut self.hook, device, direction, self.spec.id) {
                Ok(attachment) => attachments.extend(attachment),
                Err(error) => {
                    for attachment in attachments.into_iter().rev() {
                        attachment.remove().map_err(EbpfError::detach)?;
                    }
                    return Err(EbpfError::attach(error));
                }
            }
        }
        Ok(attachments)
    }
}

/// Takes the programs off devices that no longer hand packets to IP, or have gone. True where there were any, with the first error.
pub(super) fn leave(attachments: &mut Vec<Attachment>, receivers: &[&Device]) -> (bool, Option<EbpfError>) {
    let stays = |attachment: &mut Attachment| receivers.iter().any(|device| device.index == attachment.device.index);
    let gone: Vec<_> = attachments.extract_if(.., |attachment| !stays(attachment)).collect();
    let changed = !gone.is_empty();
    let mut first_error = None;
    for attachment in gone.into_iter().rev() {
        first_error = first_error.or(attachment.remove().map_err(EbpfError::detach).err());
    }
    (changed, first_error)
}

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

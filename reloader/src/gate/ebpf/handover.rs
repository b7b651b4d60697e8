//! Describes an eBPF gate for its guard, and makes a gate of the description.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::delivery::DeliveryRoutes;
use super::error::EbpfError;
use super::maps::Maps;
use super::sockets::Sockets;
use crate::gate::attachment::{Attachment, Way};
use crate::gate::contract::Handover;
use crate::kernel::devices::Device;
use crate::kernel::tc::{Direction, Filter};

/// The description. The descriptors beside it are those of the maps, then of the sockets, then of the TCX links.
#[derive(Serialize, Deserialize)]
struct Manifest {
    /// How many sockets there are.
    sockets: usize,
    bare: HashSet<u32>,
    attachments: Vec<AttachmentNote>,
}

/// An attachment without its descriptor.
#[derive(Serialize, Deserialize)]
struct AttachmentNote {
    device: String,
    index: u32,
    egress: bool,
    /// `None` for a TCX link.
    filter: Option<FilterNote>,
}

#[derive(Serialize, Deserialize)]
struct FilterNote {
    preference: u16,
    handle: u32,
    program: Option<String>,
}

/// The parts of an eBPF gate that holder and guard have in common.
pub(super) struct Parts {
    pub(super) maps: Maps,
    pub(super) sockets: Sockets,
    pub(super) attachments: Vec<Attachment>,
    /// Devices whose packets begin without an Ethernet header, by index.
    pub(super) bare: HashSet<u32>,
}

impl Parts {
    /// By which devices SYNs can be delivered now.
    pub(super) fn routes(&self) -> DeliveryRoutes {
        let back = self.attachments.iter().filter(|attachment| attachment.direction == Direction::Egress);
        DeliveryRoutes { back: back.map(|attachment| attachment.device.index).collect(), bare: self.bare.clone() }
    }

    /// What the guard gets.
    pub(super) fn handover(&self) -> Result<Handover, EbpfError> {
        let sockets = self.sockets.duplicates().map_err(|source| EbpfError::Socket { source })?;
        let attachments = self.attachments.iter().map(AttachmentNote::from).collect();
        let manifest = Manifest { sockets: sockets.len(), bare: self.bare.clone(), attachments };
        let links = self.attachments.iter().filter_map(|attachment| match &attachment.way {
            Way::Tcx(link) => Some(link),
            Way::Clsact(_) => None,
        });
        let duplicate = |fd: &OwnedFd| fd.try_clone().map_err(EbpfError::handover);
        let mut descriptors = self.maps.descriptors().iter().map(duplicate).collect::<Result<Vec<_>, _>>()?;
        descriptors.extend(sockets);
        descriptors.extend(links.map(duplicate).collect::<Result<Vec<_>, _>>()?);
        Ok(Handover { manifest: serde_json::to_value(manifest).map_err(EbpfError::handover)?, descriptors })
    }

    /// The parts that the guard makes of it.
    pub(super) fn restore(handover: Handover) -> Result<Self, EbpfError> {
        let manifest: Manifest = serde_json::from_value(handover.manifest).map_err(EbpfError::handover)?;
        let mut descriptors = handover.descriptors.into_iter();
        let maps = Maps::open(descriptors.by_ref().take(Maps::NUMBER).collect())?;
        let sockets = Sockets::from_duplicates(descriptors.by_ref().take(manifest.sockets).collect())
            .ok_or_else(|| EbpfError::handover("it has too few sockets"))?;
        let attachments = manifest.attachments.into_iter().map(|note| {
            let device = Device { name: note.device, index: note.index, ..Device::default() };
            let direction = if note.egress { Direction::Egress } else { Direction::Ingress };
            let way = match note.filter {
                Some(FilterNote { preference, handle, program }) => Way::Clsact(Filter { preference, handle, program }),
                None => Way::Tcx(descriptors.next().ok_or_else(|| EbpfError::handover("it has too few links"))?),
            };
            Ok(Attachment { device, direction, way, behind_others: false })
        });
        Ok(Self { attachments: attachments.collect::<Result<_, EbpfError>>()?, maps, sockets, bare: manifest.bare })
    }
}

impl From<&Attachment> for AttachmentNote {
    fn from(attachment: &Attachment) -> Self {
        let filter = match &attachment.way {
            Way::Tcx(_) => None,
            Way::Clsact(Filter { preference, handle, program }) => {
                Some(FilterNote { preference: *preference, handle: *handle, program: program.clone() })
            }
        };
        let Device { name, index, .. } = &attachment.device;
        Self { device: name.clone(), index: *index, egress: attachment.direction == Direction::Egress, filter }
    }
}

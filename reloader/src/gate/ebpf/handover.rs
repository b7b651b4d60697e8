//! What a gate tells its guard about itself.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::delivery::{DeliveryRoutes, Sockets};
use super::error::EbpfError;
use super::maps::Maps;
use crate::gate::attachment::{Attachment, Way};
use crate::gate::hold::Handover;
use crate::kernel::devices::Device;
use crate::kernel::tc::{Direction, Filter};

/// The descriptors are those of the maps, then of the sockets, then of the TCX links.
#[derive(Serialize, Deserialize)]
struct Manifest {
    sockets: usize,
    bare: HashSet<u32>,
    attachments: Vec<Noted>,
}

/// An attachment in words.
#[derive(Serialize, Deserialize)]
struct Noted {
    device: String,
    index: u32,
    egress: bool,
    /// None for a TCX link.
    filter: Option<NotedFilter>,
}

#[derive(Serialize, Deserialize)]
struct NotedFilter {
    preference: u16,
    handle: u32,
    program: Option<String>,
}

/// The parts of a gate that a guard has too.
pub(super) struct Parts {
    pub(super) maps: Maps,
    pub(super) sockets: Sockets,
    pub(super) attachments: Vec<Attachment>,
    /// Devices whose packets begin with no Ethernet header.
    pub(super) bare: HashSet<u32>,
}

impl Parts {
    /// By which ways SYNs can be delivered now.
    pub(super) fn ways(&self) -> DeliveryRoutes {
        let back = self.attachments.iter().filter(|attachment| attachment.direction == Direction::Egress);
        DeliveryRoutes { back: back.map(|attachment| attachment.device.index).collect(), bare: self.bare.clone() }
    }

    pub(super) fn keepsake(&self) -> Result<Handover, EbpfError> {
        let sockets = self.sockets.duplicates().map_err(|source| EbpfError::Socket { source })?;
        let attachments = self.attachments.iter().map(Noted::from).collect();
        let manifest = Manifest { sockets: sockets.len(), bare: self.bare.clone(), attachments };
        let links = self.attachments.iter().filter_map(|attachment| match &attachment.way {
            Way::Tcx(link) => Some(link),
            Way::Clsact(_) => None,
        });
        let duplicate = |fd: &OwnedFd| fd.try_clone().map_err(EbpfError::keepsake);
        let mut descriptors = self.maps.descriptors().iter().map(duplicate).collect::<Result<Vec<_>, _>>()?;
        descriptors.extend(sockets);
        descriptors.extend(links.map(duplicate).collect::<Result<Vec<_>, _>>()?);
        Ok(Handover { manifest: serde_json::to_value(manifest).map_err(EbpfError::keepsake)?, descriptors })
    }

    pub(super) fn restore(keepsake: Handover) -> Result<Self, EbpfError> {
        let manifest: Manifest = serde_json::from_value(keepsake.manifest).map_err(EbpfError::keepsake)?;
        let mut descriptors = keepsake.descriptors.into_iter();
        let maps = Maps::open(descriptors.by_ref().take(Maps::NUMBER).collect())?;
        let sockets = Sockets::from_duplicates(descriptors.by_ref().take(manifest.sockets).collect())
            .ok_or_else(|| EbpfError::keepsake("it has too few sockets"))?;
        let attachments = manifest.attachments.into_iter().map(|noted| {
            let device = Device { name: noted.device, index: noted.index, ..Device::default() };
            let direction = if noted.egress { Direction::Egress } else { Direction::Ingress };
            let way = match noted.filter {
                Some(NotedFilter { preference, handle, program }) => {
                    Way::Clsact(Filter { preference, handle, program })
                }
                None => Way::Tcx(descriptors.next().ok_or_else(|| EbpfError::keepsake("it has too few links"))?),
            };
            Ok(Attachment { device, direction, way, behind_others: false })
        });
        Ok(Self { attachments: attachments.collect::<Result<_, EbpfError>>()?, maps, sockets, bare: manifest.bare })
    }
}

impl From<&Attachment> for Noted {
    fn from(attachment: &Attachment) -> Self {
        let filter = match &attachment.way {
            Way::Tcx(_) => None,
            Way::Clsact(Filter { preference, handle, program }) => {
                Some(NotedFilter { preference: *preference, handle: *handle, program: program.clone() })
            }
        };
        let Device { name, index, .. } = &attachment.device;
        Self { device: name.clone(), index: *index, egress: attachment.direction == Direction::Egress, filter }
    }
}

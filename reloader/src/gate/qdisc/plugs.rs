//! The plugs in which SYNs are parked: one in a band of the prio on `lo`, and one on an ifb device for all other devices.

use std::io;

use super::error::{QdiscError, is_gone, is_taken};
use super::lo_prio::{BANDS, ensure_prio, is_in_a_band, prio_exists};
use crate::kernel::devices::{self, Device, LO};
use crate::kernel::tc::qdisc::{self, Qdisc, ROOT};

/// What comes before the id in the name of an ifb device.
const IFB_PREFIX: &str = "rlr-hold-";

/// How often a plug is tried where a hold that ends removes the prio in between.
const ATTEMPTS: u32 = 3;

/// The handle of a hold's plug: the id is its major number.
fn plug_handle(id: u16) -> u32 {
    u32::from(id) << 16
}

fn ifb_name(id: u16) -> String {
    format!("{IFB_PREFIX}{id}")
}

/// The hold whose ifb device this is.
pub(super) fn ifb_of(device: &Device) -> Option<u16> {
    let id = device.name.strip_prefix(IFB_PREFIX)?;
    id.parse().ok().filter(|_| device.kind.as_deref() == Some("ifb"))
}

/// The hold whose plug this is. `devices` are all devices of the network namespace.
pub(super) fn plug_of(qdisc: &Qdisc, devices: &[Device]) -> Option<u16> {
    let id = (qdisc.handle >> 16) as u16;
    let on_ifb = || devices.iter().any(|device| device.index == qdisc.device && ifb_of(device) == Some(id));
    (qdisc.kind == "plug" && id != 0 && (is_in_a_band(qdisc) || on_ifb())).then_some(id)
}

/// Adds the plug for local clients. Returns its class.
pub(super) fn add_on_lo(id: u16, capacity: u32) -> Result<u32, QdiscError> {
    let mut attempts = ATTEMPTS;
    loop {
        ensure_prio()?;
        match plug_in_free_band(id, capacity) {
            // The last hold before this one has ended in between, and removed the prio.
            Err(error) if is_gone(&error) && attempts > 0 && !prio_exists()? => attempts -= 1,
            Err(source) => return Err(QdiscError::adding("lo", "adding a plug", "sch_plug", source)),
            Ok(None) => return Err(QdiscError::TooManyHolds { most: BANDS.count() }),
            Ok(Some(class)) => return Ok(class),
        }
    }
}

fn plug_in_free_band(id: u16, capacity: u32) -> io::Result<Option<u32>> {
    for class in BANDS {
        match qdisc::add_plug(LO, class, plug_handle(id), capacity) {
            Err(error) if is_taken(&error) => {}
            added => return added.map(|()| Some(class)),
        }
    }
    Ok(None)
}

/// Adds an ifb device with the plug for clients from outside. Returns the index of the device.
pub(super) fn add_ifb(id: u16, capacity: u32) -> Result<u32, QdiscError> {
    let name = ifb_name(id);
    match devices::add_ifb(&name) {
        Err(error) if is_taken(&error) => return Err(QdiscError::IdTaken { id }),
        added => added.map_err(|source| QdiscError::adding(&name, "adding the device", "ifb", source))?,
    }
    let Some(device) = devices::index(&name) else {
        let source = rustix::io::Errno::NODEV.into();
        return Err(QdiscError::Device { device: name, what: "finding the device just added", source });
    };
    qdisc::add_plug(device, ROOT, plug_handle(id), capacity)
        .map_err(|source| QdiscError::adding(&name, "adding a plug", "sch_plug", source))?;
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::qdisc::lo_prio::PRIO;

    fn plug(device: u32, parent: u32, handle: u32) -> Qdisc {
        Qdisc { device, parent, handle, kind: "plug".into(), ..Qdisc::default() }
    }

    #[test]
    fn the_plug_of_a_hold_is_told_from_other_plugs() {
        let ifb = Device { index: 5, name: ifb_name(0x7fff), kind: Some("ifb".into()), ..Device::default() };
        assert!(ifb.name.len() < 16, "IFNAMSIZ");
        let devices = [ifb];
        assert_eq!(plug_of(&plug(LO, PRIO | 3, plug_handle(7)), &devices), Some(7));
        assert_eq!(plug_of(&plug(5, ROOT, plug_handle(0x7fff)), &devices), Some(0x7fff));
        assert_eq!(plug_of(&plug(5, ROOT, plug_handle(7)), &devices), None);
        assert_eq!(plug_of(&plug(LO, 0x1_0004, plug_handle(7)), &devices), None);
        assert_eq!(plug_of(&plug(6, ROOT, plug_handle(7)), &devices), None);
    }
}

//! Where SYNs are parked: a plug in a band of the prio on `lo`, and a plug on an ifb device for all others.

use std::io;

use super::error::{QdiscError, is_gone, is_taken};
use crate::kernel::devices::{self, Device, LO};
use crate::kernel::tc::qdisc::{self, Qdisc, ROOT};

/// The handle of the prio on `lo`, which all holds share.
pub(super) const PRIO: u32 = 0xfe1d_0000;

/// The bands that holds may take, as classes; what is not held goes through the first.
const BANDS: std::ops::RangeInclusive<u32> = PRIO | 2..=PRIO | 15;

/// A queue in the last band, through which nothing goes: it says that the prio is to stay between holds.
const KEEPER: u32 = 0xfe1e_0000;
const LAST_BAND: u32 = PRIO | 16;

/// Puts the prio on `lo`, to stay until [`release_prio`].
pub(super) fn keep_prio() -> Result<(), QdiscError> {
    ensure_prio()?;
    match qdisc::add_pfifo(LO, LAST_BAND, KEEPER) {
        Err(error) if is_taken(&error) => Ok(()),
        added => added.map_err(|source| QdiscError::adding("lo", "adding a pfifo", "sch_fifo", source)),
    }
}

/// The prio goes with the last hold from now on, or at once.
pub(super) fn release_prio() -> io::Result<()> {
    match qdisc::remove(LO, LAST_BAND, KEEPER) {
        Err(error) if is_gone(&error) => Ok(()),
        removed => removed.and_then(|()| super::discovery::remove_unused_prio()),
    }
}

/// Whether a hold needs the prio, or a daemon wants it to stay.
pub(super) fn needs_prio(qdisc: &Qdisc) -> bool {
    let in_a_band = qdisc.device == LO && qdisc.parent & 0xffff_0000 == PRIO;
    in_a_band && (qdisc.kind == "plug" || qdisc.handle == KEEPER)
}

/// The handle of a hold's plug: the id is a major number.
fn plug_handle(id: u16) -> u32 {
    u32::from(id) << 16
}

fn ifb_name(id: u16) -> String {
    format!("rlr-hold-{id}")
}

/// The hold whose ifb device this is.
pub(super) fn ifb_of(device: &Device) -> Option<u16> {
    let id = device.name.strip_prefix("rlr-hold-")?;
    id.parse().ok().filter(|_| device.kind.as_deref() == Some("ifb"))
}

/// The hold whose plug this is, `devices` being all there are.
pub(super) fn plug_of(qdisc: &Qdisc, devices: &[Device]) -> Option<u16> {
    let id = (qdisc.handle >> 16) as u16;
    let on_lo = qdisc.device == LO && qdisc.parent & 0xffff_0000 == PRIO;
    let on_ifb = || devices.iter().any(|device| device.index == qdisc.device && ifb_of(device) == Some(id));
    (qdisc.kind == "plug" && id != 0 && (on_lo || on_ifb())).then_some(id)
}

pub(super) fn is_our_prio(qdisc: &Qdisc) -> bool {
    qdisc.device == LO && qdisc.parent == ROOT && qdisc.handle == PRIO && qdisc.kind == "prio"
}

/// Makes the parking place for local clients, and returns its class.
pub(super) fn make_on_lo(id: u16, capacity: u32) -> Result<u32, QdiscError> {
    let mut attempts = 3;
    loop {
        ensure_prio()?;
        match plug_in_free_band(id, capacity) {
            // The last hold before us ended in between and took the prio along.
            Err(error) if is_gone(&error) && attempts > 0 && !prio_is_there()? => attempts -= 1,
            Err(source) => return Err(QdiscError::adding("lo", "adding a plug", "sch_plug", source)),
            Ok(None) => return Err(QdiscError::TooManyHolds),
            Ok(Some(class)) => return Ok(class),
        }
    }
}

fn ensure_prio() -> Result<(), QdiscError> {
    let all = qdisc::list().map_err(QdiscError::list("qdiscs"))?;
    // The kernel's own default has no handle.
    match all.iter().find(|qdisc| qdisc.device == LO && qdisc.parent == ROOT && qdisc.handle != 0) {
        Some(ours) if is_our_prio(ours) => Ok(()),
        Some(other) => Err(QdiscError::LoopbackTaken { kind: other.kind.clone(), major: (other.handle >> 16) as u16 }),
        None => match qdisc::add_prio(LO, PRIO) {
            Err(error) if is_taken(&error) => Ok(()),
            added => added.map_err(|source| QdiscError::adding("lo", "adding a prio", "sch_prio", source)),
        },
    }
}

fn prio_is_there() -> Result<bool, QdiscError> {
    Ok(qdisc::list().map_err(QdiscError::list("qdiscs"))?.iter().any(is_our_prio))
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

/// Makes the parking place for clients from outside, and returns its device.
pub(super) fn make_ifb(id: u16, capacity: u32) -> Result<u32, QdiscError> {
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

    fn plug(device: u32, parent: u32, handle: u32) -> Qdisc {
        Qdisc { device, parent, handle, kind: "plug".into(), ..Qdisc::default() }
    }

    #[test]
    fn plugs_of_holds_are_told_from_others() {
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

//! The prio on `lo`, which all holds share. A plug of each hold is in one of its bands.

use std::io;

use super::error::{QdiscError, is_gone, is_taken};
use crate::kernel::devices::LO;
use crate::kernel::tc::qdisc::{self, Qdisc, ROOT};

/// The handle of the prio.
pub(super) const PRIO: u32 = 0xfe1d_0000;

/// The bands that holds may take, as classes. What is not held goes through the first band.
pub(super) const BANDS: std::ops::RangeInclusive<u32> = PRIO | 2..=PRIO | 15;

/// The handle of a queue in the last band, through which nothing goes. It marks a prio that is to stay between holds.
const KEEPER: u32 = 0xfe1e_0000;
const LAST_BAND: u32 = PRIO | 16;

/// Adds the prio, unless it is there.
///
/// # Errors
/// Where `lo` has another root qdisc, or the kernel has no prio.
pub(super) fn ensure_prio() -> Result<(), QdiscError> {
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

/// Adds the prio, to stay between holds until [`release_prio`].
///
/// # Errors
/// Where `lo` has another root qdisc, or the kernel has no prio.
pub(crate) fn keep_prio() -> Result<(), QdiscError> {
    ensure_prio()?;
    match qdisc::add_pfifo(LO, LAST_BAND, KEEPER) {
        Err(error) if is_taken(&error) => Ok(()),
        added => added.map_err(|source| QdiscError::adding("lo", "adding a pfifo", "sch_fifo", source)),
    }
}

/// Undoes [`keep_prio`]. The prio goes now, or with the last hold that needs it.
///
/// # Errors
/// Where the kernel refuses.
pub(crate) fn release_prio() -> Result<(), QdiscError> {
    let released = match qdisc::remove(LO, LAST_BAND, KEEPER) {
        Err(error) if is_gone(&error) => Ok(()),
        removed => removed.and_then(|()| remove_unused_prio()),
    };
    released.map_err(QdiscError::prio_stays)
}

/// Removes the prio, unless it is in use.
pub(super) fn remove_unused_prio() -> io::Result<()> {
    let qdiscs = qdisc::list()?;
    if qdiscs.iter().any(needs_prio) || !qdiscs.iter().any(is_our_prio) {
        return Ok(());
    }
    qdisc::remove(LO, ROOT, PRIO)
}

/// Whether the prio exists.
pub(super) fn prio_exists() -> Result<bool, QdiscError> {
    Ok(qdisc::list().map_err(QdiscError::list("qdiscs"))?.iter().any(is_our_prio))
}

/// Whether this is the prio.
pub(super) fn is_our_prio(qdisc: &Qdisc) -> bool {
    qdisc.device == LO && qdisc.parent == ROOT && qdisc.handle == PRIO && qdisc.kind == "prio"
}

/// Whether this is in a band of the prio.
pub(super) fn is_in_a_band(qdisc: &Qdisc) -> bool {
    qdisc.device == LO && qdisc.parent & 0xffff_0000 == PRIO
}

/// Whether this is the plug of a hold, or marks a prio that is to stay.
fn needs_prio(qdisc: &Qdisc) -> bool {
    is_in_a_band(qdisc) && (qdisc.kind == "plug" || qdisc.handle == KEEPER)
}

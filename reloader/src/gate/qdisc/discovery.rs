//! Finds in the kernel what holds have put there, by what it looks like.
//!
//! So a guard, and a later process when holder and guard were killed, end a hold as its holder would have.

use std::collections::{BTreeMap, BTreeSet};

use super::error::QdiscError;
use super::lo_prio::{PRIO, is_our_prio};
use super::marks::{MarkedFilters, marked};
use super::plugs::{ifb_of, plug_of};
use crate::kernel::devices::{self, LO};
use crate::kernel::tc::qdisc::{self, INGRESS_FILTERS, Qdisc};

/// The side whose filters see packets of local clients, as device and parent.
pub(super) const ON_LO: (u32, u32) = (LO, PRIO);

/// What one hold has in the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Traces {
    pub(super) plugs: Vec<Qdisc>,
    /// The index of the ifb device.
    pub(super) ifb: Option<u32>,
    pub(super) filters: Vec<MarkedFilters>,
}

/// What all holds have in the calling thread's network namespace, by id.
pub(super) fn find() -> Result<BTreeMap<u16, Traces>, QdiscError> {
    let devices = devices::list().map_err(QdiscError::list("devices"))?;
    let qdiscs = qdisc::list().map_err(QdiscError::list("qdiscs"))?;
    let mut found: BTreeMap<u16, Traces> = BTreeMap::new();
    for device in &devices {
        if let Some(id) = ifb_of(device) {
            found.entry(id).or_default().ifb = Some(device.index);
        }
    }
    for qdisc in &qdiscs {
        if let Some(id) = plug_of(qdisc, &devices) {
            found.entry(id).or_default().plugs.push(qdisc.clone());
        }
    }
    for (device, parent) in sides(&qdiscs) {
        for marked in marked(device, parent).map_err(QdiscError::list("filters"))? {
            found.entry(marked.id).or_default().filters.push(marked);
        }
    }
    Ok(found)
}

/// The sides that may have filters of holds, as device and parent.
fn sides(qdiscs: &[Qdisc]) -> BTreeSet<(u32, u32)> {
    let side = |qdisc: &Qdisc| match qdisc.kind.as_str() {
        "ingress" | "clsact" => Some((qdisc.device, INGRESS_FILTERS)),
        _ if is_our_prio(qdisc) => Some(ON_LO),
        _ => None,
    };
    qdiscs.iter().filter_map(side).collect()
}

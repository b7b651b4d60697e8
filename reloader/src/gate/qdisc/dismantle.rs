//! Removes what a hold has in the kernel, in an order in which no SYN is lost.

use std::collections::BTreeSet;
use std::io;

use super::delivery::{Delivered, deliver_from};
use super::discovery::{ON_LO, Traces, find};
use super::error::{QdiscError, is_busy};
use super::filters::Filters;
use super::lo_prio::remove_unused_prio;
use super::marks::{MarkedFilters, Ownership, marked, of_others};
use super::removal_failures::RemovalFailures;
use super::retry::retry;
use crate::gate::failures::joined;
use crate::kernel::devices::{self, LO};
use crate::kernel::tc::qdisc::INGRESS_FILTERS;
use crate::kernel::tc::{self, qdisc};

/// Ends a hold: parked SYNs are delivered, and nothing is left.
///
/// # Errors
/// Where something could not be delivered or removed. What does not depend on it is done then.
pub(super) fn dismantle(id: u16) -> Result<(), QdiscError> {
    let Some(traces) = find()?.remove(&id) else { return Ok(()) };
    let mut failures = RemovalFailures::new(id);
    let Delivered { undelivered, still_open, .. } = deliver_from(id, &traces, &mut failures);
    if let Some(error) = undelivered {
        // To remove what parks the SYNs would lose them.
        return Err(joined(error, failures.into_error()));
    }
    // Not before: to remove `ingress` makes the device lose what it is given to send meanwhile. That would be the answers to the SYNs
    // just delivered.
    let removed = remove_filters(&traces, |side| side != ON_LO, "the filters", &mut failures);
    // A filter that diverts to a plug that is gone drops every SYN. So the plug stays then, open.
    if !still_open.contains(&ON_LO) {
        for plug in traces.plugs.iter().filter(|plug| plug.device == LO) {
            failures.note("the plug on lo", qdisc::remove(LO, plug.parent, plug.handle));
        }
        failures.note("the prio on lo", remove_unused_prio());
    }
    // They went with the prio, unless another hold keeps it.
    remove_filters(&traces, |side| side == ON_LO, "the filters on lo", &mut failures);
    if let Some(ifb) = traces.ifb
        && (removed || still_open.iter().all(|side| *side == ON_LO))
    {
        failures.note("the ifb device", devices::remove(ifb));
    }
    failures.into_error().map_or(Ok(()), Err)
}

/// Removes the filters on the sides that `concerned` names. With `ingress` all of its filters go at once. An `ingress` of another
/// program, or with filters of others, stays. True where no filter of the hold is left.
fn remove_filters(
    traces: &Traces,
    concerned: fn((u32, u32)) -> bool,
    what: &'static str,
    failures: &mut RemovalFailures,
) -> bool {
    let side = |marked: &MarkedFilters| (marked.filters.position.device, marked.filters.position.parent);
    let sides: BTreeSet<(u32, u32)> = traces.filters.iter().map(side).collect();
    let mut all_removed = true;
    for (device, parent) in sides.into_iter().filter(|side| concerned(*side)) {
        let here = || traces.filters.iter().filter(|marked| side(marked) == (device, parent));
        let created = parent == INGRESS_FILTERS && here().any(|marked| marked.ownership == Ownership::Created);
        let ours: Vec<&Filters> = here().map(|marked| &marked.filters).collect();
        let alone = if created { only_ours(device, &ours) } else { Ok(false) };
        if matches!(alone, Ok(true)) {
            all_removed &= failures.note(what, remove_ingress(device));
            continue;
        }
        // Where the kernel does not tell which other filters there are, only ours go.
        all_removed &= failures.note(what, alone.map(drop));
        for filters in ours {
            all_removed &= failures.note(what, filters.remove());
        }
    }
    all_removed
}

fn only_ours(device: u32, ours: &[&Filters]) -> io::Result<bool> {
    let all_marked_are_ours = marked(device, INGRESS_FILTERS)?.iter().all(|marked| ours.contains(&&marked.filters));
    Ok(all_marked_are_ours && of_others(device, INGRESS_FILTERS)?.is_empty())
}

/// Removes an `ingress`. It is busy while another process lists its filters (`qdisc_graft` in net/sched/sch_api.c, from 6.4 on).
fn remove_ingress(device: u32) -> io::Result<()> {
    let removed = retry(|| match tc::remove_ingress(device) {
        Err(error) if is_busy(&error) => None,
        removed => Some(removed),
    });
    removed.unwrap_or_else(|| Err(rustix::io::Errno::BUSY.into()))
}

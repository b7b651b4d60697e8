//! What a hold has put into the kernel, found again by what it looks like: so a guard, and who comes after both were killed,
//! end it as its holder would have.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::error::{QdiscError, is_busy, is_gone};
use super::filters::{self, Filters, Ownership};
use super::patiently;
use super::plugs::{PRIO, ifb_of, is_our_prio, needs_prio, plug_of};
use crate::gate::hold::HoldStats;
use crate::kernel::devices::{self, Counters, LO};
use crate::kernel::tc;
use crate::kernel::tc::qdisc::{self, INGRESS_FILTERS, Qdisc, ROOT};

/// The traces of one hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Traces {
    plugs: Vec<Qdisc>,
    ifb: Option<u32>,
    filters: Vec<(Ownership, Filters)>,
}

/// The traces of all holds in the calling thread's network namespace.
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
        for (id, mark, filters) in filters::marked(device, parent).map_err(QdiscError::list("filters"))? {
            found.entry(id).or_default().filters.push((mark, filters));
        }
    }
    Ok(found)
}

/// Devices and parents that may ask filters of ours.
fn sides(qdiscs: &[Qdisc]) -> BTreeSet<(u32, u32)> {
    let side = |qdisc: &Qdisc| match qdisc.kind.as_str() {
        "ingress" | "clsact" => Some((qdisc.device, INGRESS_FILTERS)),
        _ if is_our_prio(qdisc) => Some(ON_LO),
        _ => None,
    };
    qdiscs.iter().filter_map(side).collect()
}

/// Lets new SYNs pass and waits until the parked ones are delivered. What fails is told beside what was done.
pub(super) fn deliver(id: u16) -> (HoldStats, Option<QdiscError>) {
    let traces = match find() {
        Ok(mut all) => all.remove(&id),
        Err(error) => return (HoldStats::default(), Some(error)),
    };
    let Some(traces) = traces else { return (HoldStats::default(), None) };
    let mut failures = Failures::of(id);
    let delivered = delivered_by(id, &traces, &mut failures);
    (delivered.figures, delivered.trouble.or(failures.first))
}

/// What became of a hold's SYNs.
struct Delivered {
    figures: HoldStats,
    /// Some wait still, or nobody knows.
    trouble: Option<QdiscError>,
    /// Sides whose filters still divert.
    open: BTreeSet<(u32, u32)>,
}

fn delivered_by(id: u16, traces: &Traces, failures: &mut Failures) -> Delivered {
    for plug in &traces.plugs {
        failures.note("the plug", qdisc::unplug(plug.device, plug.parent, plug.handle));
    }
    let mut open = BTreeSet::new();
    for (_, filters) in &traces.filters {
        if !failures.note("a filter", filters.close()) {
            open.insert((filters.position.device, filters.position.parent));
        }
    }
    let (figures, trouble) = match delivered(id, traces) {
        Ok((figures, 0)) => (figures, None),
        Ok((figures, packets)) => {
            (figures, Some(QdiscError::NotDelivered { id, packets, seconds: super::EMPTY_TIMEOUT.as_secs() }))
        }
        Err(error) => (HoldStats::default(), Some(error)),
    };
    Delivered { figures, trouble, open }
}

/// Ends a hold: parked SYNs are delivered, and nothing is left. What fails does not keep the rest from being done.
pub(super) fn dismantle(id: u16) -> Result<HoldStats, QdiscError> {
    let Some(traces) = find()?.remove(&id) else { return Ok(HoldStats::default()) };
    let mut failures = Failures::of(id);
    let Delivered { figures, trouble, open } = delivered_by(id, &traces, &mut failures);
    if let Some(trouble) = trouble {
        // Deleting what holds them would lose them.
        return Err(trouble);
    }
    // Not before: removing `ingress` makes the device lose what it is given to send meanwhile, and that would be the answers to
    // the SYNs just delivered.
    let off = failures.note("the filters", remove_filters(&traces, |side| side != ON_LO));
    // A filter that diverts to a place that is gone drops every SYN: the place stays then, unplugged.
    let lo_is_closed = !open.contains(&ON_LO);
    if lo_is_closed {
        for plug in traces.plugs.iter().filter(|plug| plug.device == LO) {
            failures.note("the plug on lo", qdisc::remove(LO, plug.parent, plug.handle));
        }
        failures.note("the prio on lo", remove_unused_prio());
    }
    // They went with the prio, unless another hold keeps it.
    failures.note("the filters on lo", remove_filters(&traces, |side| side == ON_LO));
    if let Some(ifb) = traces.ifb
        && (off || open.iter().all(|side| *side == ON_LO))
    {
        failures.note("the ifb device", devices::remove(ifb));
    }
    failures.first.map_or(Ok(figures), Err)
}

/// The side that asks filters about packets of local clients.
const ON_LO: (u32, u32) = (LO, PRIO);

/// The first failure; what was gone already is none.
struct Failures {
    id: u16,
    first: Option<QdiscError>,
}

impl Failures {
    fn of(id: u16) -> Self {
        Self { id, first: None }
    }

    /// True where it was done, or there was nothing to do.
    fn note(&mut self, what: &'static str, done: io::Result<()>) -> bool {
        match done {
            Err(source) if !is_gone(&source) => {
                self.first.get_or_insert(QdiscError::LeftBehind { id: self.id, what, source });
                false
            }
            _ => true,
        }
    }
}

/// With `ingress` all of its filters go at once. That of somebody else, or with filters of somebody else, stays.
fn remove_filters(traces: &Traces, concerned: fn((u32, u32)) -> bool) -> io::Result<()> {
    let mut first_error = Ok(());
    let sides: BTreeSet<(u32, u32)> =
        traces.filters.iter().map(|(_, filters)| (filters.position.device, filters.position.parent)).collect();
    for (device, parent) in sides.into_iter().filter(|side| concerned(*side)) {
        let here = || {
            traces.filters.iter().filter(|(_, ours)| (ours.position.device, ours.position.parent) == (device, parent))
        };
        let host = parent == INGRESS_FILTERS && here().any(|(mark, _)| *mark == Ownership::Created);
        let ours: Vec<&Filters> = here().map(|(_, ours)| ours).collect();
        let alone = if host { only_ours(device, &ours) } else { Ok(false) };
        let removed = match alone {
            Ok(true) => remove_ingress(device),
            // Where nobody knows who else is there, only what is ours goes.
            alone => ours.iter().fold(alone.map(drop), |result, filters| result.and(filters.remove())),
        };
        first_error = first_error.and(removed);
    }
    first_error
}

fn only_ours(device: u32, ours: &[&Filters]) -> io::Result<bool> {
    let marked = filters::marked(device, INGRESS_FILTERS)?;
    let all_marked_are_ours = marked.iter().all(|(_, _, found)| ours.contains(&found));
    Ok(all_marked_are_ours && filters::of_others(device, INGRESS_FILTERS)?.is_empty())
}

/// Busy is an `ingress` whose filters somebody just lists (`qdisc_graft` in net/sched/sch_api.c, from 6.4 on).
fn remove_ingress(device: u32) -> io::Result<()> {
    let removed = patiently(|| match tc::remove_ingress(device) {
        Err(error) if is_busy(&error) => None,
        removed => Some(removed),
    });
    removed.unwrap_or_else(|| Err(rustix::io::Errno::BUSY.into()))
}

/// The prio goes with the last plug.
pub(super) fn remove_unused_prio() -> io::Result<()> {
    let qdiscs = qdisc::list()?;
    if qdiscs.iter().any(needs_prio) || !qdiscs.iter().any(is_our_prio) {
        return Ok(());
    }
    qdisc::remove(LO, ROOT, PRIO)
}

/// Waits until nothing waits any more, and counts. The second number is what waits all the same.
fn delivered(id: u16, traces: &Traces) -> Result<(HoldStats, u64), QdiscError> {
    let mut last = Ok((HoldStats::default(), 0));
    let _ = patiently(|| {
        last = count(id, traces);
        (!matches!(last, Ok((_, waiting)) if waiting > 0)).then_some(())
    });
    last
}

fn count(id: u16, traces: &Traces) -> Result<(HoldStats, u64), QdiscError> {
    let qdiscs = qdisc::list().map_err(QdiscError::list("qdiscs"))?;
    let is_ours = |qdisc: &&Qdisc| {
        traces
            .plugs
            .iter()
            .any(|plug| (plug.device, plug.handle, plug.parent) == (qdisc.device, qdisc.handle, qdisc.parent))
    };
    let mut figures = HoldStats::default();
    let mut waiting = 0;
    for plug in qdiscs.iter().filter(is_ours) {
        waiting += plug.waiting;
        figures.held += plug.sent + plug.waiting;
        figures.dropped += plug.dropped;
        figures.released += plug.sent;
    }
    let ifb = traces.ifb.and_then(|ifb| match devices::counters(ifb) {
        Err(error) => {
            log::debug!("hold {id}: no counters of its ifb device: {error}");
            None
        }
        Ok(counters) => Some(counters),
    });
    let Counters { received, not_taken, sent, lost } = ifb.unwrap_or_default();
    // The device has a queue of its own behind the plug, and loses what is in it when it is removed.
    waiting += received.saturating_sub(not_taken).saturating_sub(sent);
    figures.device_gone = lost;
    figures.released = figures.released.saturating_sub(lost);
    Ok((figures, waiting))
}

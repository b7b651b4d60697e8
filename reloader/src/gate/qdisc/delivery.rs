//! Delivers the SYNs that a hold has parked, and counts what became of them.

use std::collections::BTreeSet;

use super::discovery::{Traces, find};
use super::error::QdiscError;
use super::removal_failures::RemovalFailures;
use super::retry::retry;
use super::timing::KERNEL_TIMEOUT;
use crate::gate::contract::HoldStats;
use crate::gate::failures::joined;
use crate::kernel::devices::{self, Counters};
use crate::kernel::tc::qdisc::{self, Qdisc};

/// What became of a hold's SYNs.
pub(super) struct Delivered {
    pub(super) stats: HoldStats,
    /// Why some are still parked, or may be.
    pub(super) undelivered: Option<QdiscError>,
    /// The sides whose filters could not be closed and divert SYNs still, as device and parent.
    pub(super) still_open: BTreeSet<(u32, u32)>,
}

/// Lets new SYNs pass, and waits until the parked ones are delivered. Returns what failed beside what was done.
pub(super) fn deliver(id: u16) -> (HoldStats, Option<QdiscError>) {
    let traces = match find() {
        Ok(mut all) => all.remove(&id),
        Err(error) => return (HoldStats::default(), Some(error)),
    };
    let Some(traces) = traces else { return (HoldStats::default(), None) };
    let mut failures = RemovalFailures::new(id);
    let delivered = deliver_from(id, &traces, &mut failures);
    let failed = failures.into_error();
    let trouble = match delivered.undelivered {
        Some(error) => Some(joined(error, failed)),
        None => failed,
    };
    (delivered.stats, trouble)
}

/// [`deliver`], for a hold that was found.
pub(super) fn deliver_from(id: u16, traces: &Traces, failures: &mut RemovalFailures) -> Delivered {
    for plug in &traces.plugs {
        failures.note("the plug", qdisc::unplug(plug.device, plug.parent, plug.handle));
    }
    let mut still_open = BTreeSet::new();
    for marked in &traces.filters {
        if !failures.note("a filter", marked.filters.close()) {
            still_open.insert((marked.filters.position.device, marked.filters.position.parent));
        }
    }
    let (stats, undelivered) = match wait_until_delivered(id, traces) {
        Ok(Count { stats, waiting: 0 }) => (stats, None),
        Ok(Count { stats, waiting }) => {
            (stats, Some(QdiscError::NotDelivered { id, packets: waiting, seconds: KERNEL_TIMEOUT.as_secs() }))
        }
        Err(error) => (HoldStats::default(), Some(error)),
    };
    Delivered { stats, undelivered, still_open }
}

#[derive(Default)]
struct Count {
    stats: HoldStats,
    /// How many SYNs are still parked.
    waiting: u64,
}

/// Waits until no SYN is parked any more, for a limited time.
fn wait_until_delivered(id: u16, traces: &Traces) -> Result<Count, QdiscError> {
    let mut last = Ok(Count::default());
    let _ = retry(|| {
        last = count(id, traces);
        (!matches!(last, Ok(Count { waiting, .. }) if waiting > 0)).then_some(())
    });
    last
}

fn count(id: u16, traces: &Traces) -> Result<Count, QdiscError> {
    let qdiscs = qdisc::list().map_err(QdiscError::list("qdiscs"))?;
    let is_ours = |qdisc: &&Qdisc| {
        traces
            .plugs
            .iter()
            .any(|plug| (plug.device, plug.handle, plug.parent) == (qdisc.device, qdisc.handle, qdisc.parent))
    };
    let mut stats = HoldStats::default();
    let mut waiting = 0;
    for plug in qdiscs.iter().filter(is_ours) {
        waiting += plug.waiting;
        stats.held += plug.sent + plug.waiting;
        stats.dropped += plug.dropped;
        stats.released += plug.sent;
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
    stats.device_gone = lost;
    stats.released = stats.released.saturating_sub(lost);
    Ok(Count { stats, waiting })
}

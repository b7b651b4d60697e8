//! Holds SYNs for listeners whose socket changes, drains them, and judges what was seen meanwhile.

use std::collections::HashSet;
use std::time::Instant;

use super::deferral::deferral_as_cause;
use super::pending_hold::PendingHold;
use crate::gate::hold::{Backend, Hold, HoldOutcome, HoldStats};
use crate::model::listener::Listener;
use crate::process::run_blocking;
use crate::receipt::{Doubt, ListenerReceipt, ReasonCode, Recorder, Rung, Syns, undrained};
use crate::reload::drain::{Drain, Undrained};
use crate::reload::verdict::Verdict;
use crate::supervision::Supervisor;

/// A hold in force, and what it is for.
pub(crate) struct HeldListeners {
    hold: Hold,
    /// When it ends by itself.
    ends: Instant,
    drain: Drain,
    old: Vec<Listener>,
    /// Those whose handshakes end only with the client's first data.
    deferring: HashSet<u64>,
    /// Why the old listeners cannot be known to be closed.
    still_open: Option<Doubt>,
}

/// The old listeners that lose what is queued on them when they close, and that a hold can protect.
pub(crate) fn at_risk(verdicts: &[Verdict]) -> Vec<Listener> {
    let unproven = verdicts.iter().filter(|verdict| verdict.receipt.rung == Rung::Unproven);
    unproven.filter_map(|verdict| verdict.closing.clone()).filter(|old| old.endpoint.is_tcp_here()).collect()
}

/// [`Hold::release`], beside the loop.
pub(crate) async fn release(hold: Hold) -> HoldOutcome {
    run_blocking(|| hold.release()).await
}

impl HeldListeners {
    /// Holds SYNs for the old listeners. `None` where there are none, or where nothing can hold, which is noted. `ours` are all sockets of both
    /// generations.
    pub(crate) async fn begin(
        supervisor: &Supervisor,
        old: Vec<Listener>,
        ours: &HashSet<u64>,
        recorder: &mut Recorder,
    ) -> Option<HeldListeners> {
        if old.is_empty() {
            return None;
        }
        let pending = PendingHold::begin(supervisor, old, ours);
        HeldListeners::arm(supervisor, pending, recorder).await
    }

    /// Holds SYNs by what is prepared. `None` where nothing can hold, which is noted.
    pub(crate) async fn arm(
        supervisor: &Supervisor,
        pending: PendingHold,
        recorder: &mut Recorder,
    ) -> Option<HeldListeners> {
        let cookies = recorder.cookies();
        let old = pending.listeners().to_vec();
        let deferring = supervisor.custody().deferring(old.iter().map(|listener| listener.inode));
        let held = old.iter().map(|listener| listener.endpoint.clone()).collect();
        let (hold, terms) = pending.arm().await.inspect_err(|error| recorder.note(error)).ok()?;
        hold.started().notes.iter().for_each(|note| recorder.note(note));
        let ends = hold.started().at + terms.max;
        let drain = Drain::begin(old.clone(), held, &terms.exceptions, cookies);
        Some(HeldListeners { hold, ends, drain, old, deferring, still_open: None })
    }

    /// Waits until the old queues are empty; with `answers`, also until the old server owes no answer.
    pub(crate) async fn drain(&mut self, answers: bool) {
        self.drain.until_empty(answers).await;
    }

    /// The doubt about a proof, as far as it is known by now.
    pub(crate) fn doubts(&self) -> Option<Doubt> {
        let general = self.hold.doubt().map(|why| Doubt::new(ReasonCode::HoldFailed, why));
        self.old.iter().find_map(|listener| {
            let doubt = general.clone();
            let deferring = self.deferring.contains(&listener.inode);
            let doubt = doubt.or_else(|| undrained_doubt(self.drain.undrained(listener), deferring));
            let doubt = doubt.or_else(|| self.drain.doubt(&listener.endpoint));
            Some(doubt?.about(&listener.endpoint))
        })
    }

    /// When the hold ends by itself.
    pub(crate) fn ends(&self) -> Instant {
        self.ends
    }

    /// Tells the hold that the old generation is about to be asked to close its listeners, before new ones are there.
    pub(crate) fn old_leaves(&self) {
        self.hold.old_leaves();
    }

    /// Tells the hold that the old generation has not closed its listeners, and goes on serving.
    pub(crate) fn old_stays(&self) {
        self.hold.old_stays();
    }

    /// The old generation was asked to close its listeners, and was not seen to do so.
    pub(crate) fn doubt_the_close(&mut self) {
        self.still_open = Some(still_open());
    }

    /// Whether the hold covers the old listener with this inode.
    pub(crate) fn covers(&self, inode: Option<u64>) -> bool {
        self.old.iter().any(|listener| Some(listener.inode) == inode)
    }

    /// Ends the hold and writes into the receipt what it proves.
    pub(crate) async fn release(mut self, recorder: &mut Recorder) {
        self.drain.look(false).await;
        let HeldListeners { hold, drain, old, deferring, still_open, .. } = self;
        let backend = hold.started().backend;
        let ended = self::release(hold).await;
        ended.notes.iter().for_each(|note| recorder.note(note));
        let general = general_doubt(&ended);
        let receipt = recorder.receipt();
        receipt.syns = Syns { seen: receipt.syns.seen, ..syns(&ended) };
        receipt.notes.extend(no_room(&ended.stats));
        for entry in &mut receipt.listeners {
            let Some(listener) = old.iter().find(|listener| Some(listener.inode) == entry.inode_before) else {
                continue;
            };
            if entry.rung == Rung::Removed {
                let Undrained { queue, half_open, silent } = drain.undrained(listener);
                entry.undrained_queue.get_or_insert(queue);
                entry.undrained_half_open.get_or_insert(half_open);
                entry.half_open_silent.get_or_insert(silent);
            }
            if entry.rung != Rung::Unproven {
                continue;
            }
            // SYNs that passed after the lease had run out would look to the drain like SYNs that came by another way.
            let doubt = still_open.clone().or_else(|| general.clone());
            let doubt = doubt.or_else(|| drain.doubt(&listener.endpoint));
            judge_held(entry, drain.undrained(listener), deferring.contains(&listener.inode), doubt, backend);
        }
        receipt.lost.undrained = undrained(&receipt.listeners);
    }
}

/// The old generation was asked to close its listeners, and was not seen to do so.
pub(super) fn still_open() -> Doubt {
    let why = "the old generation has not closed it yet: what it queues from now on is lost";
    Doubt::new(ReasonCode::OldStillOpen, why)
}

/// The verdict on a listener that was held.
pub(crate) fn judge_held(
    entry: &mut ListenerReceipt,
    undrained: Undrained,
    deferring: bool,
    doubt: Option<Doubt>,
    backend: Backend,
) {
    // What was measured on the closed socket itself is more exact.
    let queue = *entry.undrained_queue.get_or_insert(undrained.queue);
    let half_open = *entry.undrained_half_open.get_or_insert(undrained.half_open);
    entry.half_open_silent.get_or_insert(undrained.silent);
    match undrained_doubt(Undrained { queue, half_open, silent: 0 }, deferring).or(doubt) {
        Some(doubt) => entry.doubt(doubt),
        None => entry.prove(rung(backend)),
    }
}

/// `deferring`: the listener waits for the client's first data before it counts a handshake as done.
fn undrained_doubt(undrained: Undrained, deferring: bool) -> Option<Doubt> {
    let Undrained { queue, half_open, .. } = undrained;
    (queue + half_open > 0).then(|| {
        let cause = deferral_as_cause(deferring && half_open > 0);
        let why = format!(
            "its queue did not run empty within 500 ms: {queue} connections and {half_open} handshakes were left on the old socket{cause}"
        );
        Doubt::new(ReasonCode::Undrained, why)
    })
}

/// What became of SYNs, as receipts tell it.
pub(crate) fn syns(ended: &HoldOutcome) -> Syns {
    let stats = ended.stats;
    Syns {
        seen: None,
        held: stats.held,
        released: stats.released,
        dropped: stats.dropped + stats.device_gone,
        lease_lapsed: stats.lease_lapsed,
        longest_hold_us: stats.longest.as_micros() as u64,
    }
}

/// A note about SYNs that could not be parked.
pub(crate) fn no_room(stats: &HoldStats) -> Option<String> {
    let dropped = stats.dropped;
    (dropped > 0)
        .then(|| format!("{dropped} SYNs found no room: their clients send them again after a second (hold.capacity)"))
}

/// Why a hold proves nothing for any of its listeners, if so.
pub(crate) fn general_doubt(ended: &HoldOutcome) -> Option<Doubt> {
    let stats = ended.stats;
    let why = match &ended.doubt {
        _ if stats.lease_lapsed > 0 => Some(format!(
            "{} SYNs passed while the lease of the hold had run out: this process was stopped, or starved",
            stats.lease_lapsed
        )),
        _ if stats.device_gone > 0 => {
            Some(format!("{} SYNs were not delivered: the device by which they came has gone", stats.device_gone))
        }
        Some(doubt) => Some(doubt.clone()),
        None => ended.reason.doubt().map(Into::into),
    };
    why.map(|why| Doubt::new(ReasonCode::HoldFailed, why))
}

/// The rung of a listener that was held by this gate.
pub(crate) fn rung(backend: Backend) -> Rung {
    match backend {
        Backend::Ebpf => Rung::HeldEbpf,
        Backend::Qdisc => Rung::HeldQdisc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::hold::EndReason;

    fn ended(reason: EndReason, doubt: Option<&str>) -> HoldOutcome {
        let at = std::time::Instant::now();
        HoldOutcome { stats: Default::default(), at, reason, doubt: doubt.map(Into::into), notes: Vec::new() }
    }

    #[test]
    fn full_buffer_is_a_note_and_a_device_that_went_is_a_doubt() {
        let with = |dropped, homeless| {
            let mut ended = ended(EndReason::Asked, None);
            (ended.stats.dropped, ended.stats.device_gone) = (dropped, homeless);
            (no_room(&ended.stats), general_doubt(&ended))
        };
        assert_eq!(with(0, 0), (None, None));
        let (note, doubt) = with(3, 0);
        assert!(note.unwrap().starts_with("3 SYNs found no room") && doubt.is_none());
        let (note, doubt) = with(0, 2);
        assert!(note.is_none() && doubt.unwrap().why.starts_with("2 SYNs were not delivered"));
    }

    #[test]
    fn failed_hold_proves_nothing() {
        assert_eq!(general_doubt(&ended(EndReason::Asked, None)), None);
        assert_eq!(
            general_doubt(&ended(EndReason::Asked, Some("2 SYNs were not delivered"))).unwrap().why,
            "2 SYNs were not delivered"
        );
        assert_eq!(general_doubt(&ended(EndReason::Lifted, Some("it stood still"))).unwrap().why, "it stood still");
        assert!(general_doubt(&ended(EndReason::Failed, None)).is_some());
    }
}

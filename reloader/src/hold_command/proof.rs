//! Judges what a hold around a command proves for each listener.

use std::collections::HashSet;

use super::presence::{Presence, is_served};
use super::window::{BindWindow, Waited};
use crate::gate::hold::{Backend, EndReason, HoldOutcome};
use crate::model::listener::{Listener, Role};
use crate::process;
use crate::receipt::{Doubt, Failure, ListenerReceipt, ReasonCode, Recorder, Rung, undrained};
use crate::reload::drain::Drain;
use crate::reload::protection::held::{general_doubt, judge_held, no_room, rung, syns};

/// An old listener and the one that took its place, or a new one without an old one.
type Pair<'a> = (Option<&'a Listener>, Option<&'a Listener>);

/// Notes how many requests may be cut, because the command is about to stop their server.
pub(super) fn note_unanswered(drain: &Drain, recorder: &mut Recorder) {
    match drain.unanswered() {
        0 => {}
        1 => recorder.note("1 request had no answer yet when the command was started"),
        many => recorder.note(format!("{many} requests had no answer yet when the command was started")),
    }
}

/// Why a hold was over before the command could be run.
pub(super) fn over(ended: &HoldOutcome) -> String {
    match (ended.reason, &ended.doubt) {
        (EndReason::Max | EndReason::Asked, _) => "its longest time (--max) was over".into(),
        (_, Some(doubt)) => doubt.clone(),
        (EndReason::Lifted, None) => "it was lifted by `reloader release`".into(),
        (EndReason::Failed, None) => "it failed".into(),
    }
}

/// Why the whole hold counts as failed. `unserved` names the addresses without a listener.
pub(super) fn failure(waited: &Waited, unserved: Option<&str>, command: Option<process::Ended>) -> Option<Failure> {
    let refused = |place: &str| {
        let command = match command {
            Some(process::Ended::Exited(0)) => "the command has ended".into(),
            Some(ended) => format!("the command {ended}"),
            None => "the command runs".into(),
        };
        format!("SYNs to {place} are refused now; {command}")
    };
    let (code, reason) = match (waited, unserved) {
        (Waited::TimeOver, Some(place)) => {
            (ReasonCode::NoNewListener, format!("the hold ended before a new listener was there: {}", refused(place)))
        }
        (Waited::Signal(_), Some(place)) => {
            (ReasonCode::Interrupted, format!("{}: {}", by_signal(waited)?, refused(place)))
        }
        (Waited::Blind(error), _) => (
            ReasonCode::Unobservable,
            format!("released, because it could not be seen whether a new listener is there: {error}"),
        ),
        (Waited::Failed(ended), _) => {
            (ReasonCode::CommandFailed, format!("the command {ended}; the old listeners are still open"))
        }
        _ => return None,
    };
    Some(Failure::new(code, reason))
}

fn by_signal(waited: &Waited) -> Option<String> {
    let Waited::Signal(signal) = waited else { return None };
    Some(format!("released by signal {} before a new listener was there", signal.as_raw()))
}

/// What was observed while a command ran under a hold.
pub(super) struct Evidence<'a> {
    pub(super) window: &'a BindWindow,
    /// The listeners when the hold was over.
    pub(super) now: &'a Presence,
    pub(super) drain: &'a Drain,
    pub(super) waited: &'a Waited,
    pub(super) backend: Backend,
    pub(super) outcome: &'a HoldOutcome,
}

impl Evidence<'_> {
    /// Fills the receipt.
    pub(super) fn record(&self, recorder: &mut Recorder) {
        let Evidence { window, now, waited, outcome, .. } = self;
        outcome.notes.iter().for_each(|note| recorder.note(note));
        recorder.receipt().syns = syns(outcome);
        let interrupted = || by_signal(waited).map(|why| Doubt::new(ReasonCode::Interrupted, why));
        let general = general_doubt(outcome).or_else(interrupted);
        let mut listed = HashSet::new();
        let mut receipts = Vec::new();
        let before_and_after = window.before.listeners_of.iter().zip(&now.listeners_of);
        for (place, (before, after)) in window.places.iter().zip(before_and_after) {
            for (old, new) in pairs(before, after) {
                let is_served = old.is_none_or(|old| is_served(place, old, after));
                let key = (old.map(|listener| listener.inode), new.map(|listener| listener.inode));
                if listed.insert(key) {
                    receipts.extend(self.entry((old, new), is_served, general.as_ref()));
                }
            }
        }
        no_room(&outcome.stats).into_iter().for_each(|note| recorder.note(note));
        recorder.receipt().lost.undrained = undrained(&receipts);
        recorder.receipt().listeners = receipts;
    }

    fn entry(&self, (old, new): Pair, is_served: bool, general: Option<&Doubt>) -> Option<ListenerReceipt> {
        let endpoint = &old.or(new)?.endpoint;
        let mut receipt = ListenerReceipt::new(endpoint, Role::Traffic, rung(self.backend));
        receipt.inode_before = old.map(|listener| listener.inode);
        receipt.inode_after = new.map(|listener| listener.inode);
        let left = old.map(|old| self.drain.undrained(old)).unwrap_or_default();
        if old.is_none() || receipt.inode_before != receipt.inode_after {
            let doubt = match new {
                None => Some(Doubt::new(ReasonCode::NoNewListener, "no new listener took its place")),
                Some(_) if !is_served => {
                    Some(Doubt::new(ReasonCode::NoNewListener, "no new listener took the place of a part of it"))
                }
                // The drain would take what passed a lapsed lease for something that came by another way.
                Some(_) => general.cloned().or_else(|| self.drain.doubt(endpoint)),
            };
            judge_held(&mut receipt, left, false, doubt, self.backend);
            if old.is_none() {
                // There was nothing to be drained.
                (receipt.undrained_queue, receipt.undrained_half_open, receipt.half_open_silent) = (None, None, None);
            }
        } else if matches!(self.waited, Waited::Both | Waited::TimeOver | Waited::Signal(_)) {
            let stays = "the old server has not closed it: what it queues from now on is lost when it does";
            receipt.doubt(match general {
                None => Doubt::new(ReasonCode::OldStillOpen, stays),
                Some(general) => Doubt::new(general.code, format!("{}; {stays}", general.why)),
            });
        } else {
            receipt.rung = Rung::Passed;
        }
        Some(receipt)
    }
}

/// Pairs each old listener with the new one that took its place. One can take the place of several.
fn pairs<'a>(before: &'a [Listener], after: &'a [Listener]) -> Vec<Pair<'a>> {
    let is_fresh = |new: &&Listener| before.iter().all(|old| old.inode != new.inode);
    let fresh: Vec<&Listener> = after.iter().filter(is_fresh).collect();
    let mut free = fresh.clone();
    let mut take = |suits: &dyn Fn(&Listener) -> bool| {
        let found = free.iter().position(|new| suits(new))?;
        Some(free.remove(found))
    };
    let same = |old: &Listener| after.iter().find(|new| new.inode == old.inode);
    let alike = |old: &Listener| same(old).or_else(|| take(&|new| new.endpoint.address == old.endpoint.address));
    let firsts: Vec<Option<&Listener>> = before.iter().map(alike).collect();
    let mut pairs: Vec<Pair> = Vec::new();
    for (old, first) in before.iter().zip(firsts) {
        let suits = |new: &Listener| old.endpoint.overlaps(&new.endpoint);
        let new = first.or_else(|| take(&suits)).or_else(|| fresh.iter().copied().find(|new| suits(new)));
        pairs.push((Some(old), new));
    }
    pairs.extend(free.into_iter().map(|new| (None, Some(new))));
    pairs
}

#[cfg(test)]
mod tests {
    use super::super::targets::listener;
    use super::super::targets::tests::{socket, v6only};
    use super::*;
    use crate::kernel::sock_diag::ListenSocket;

    fn paired(before: &[ListenSocket], after: &[ListenSocket]) -> Vec<(u64, u64)> {
        let listeners = |sockets: &[ListenSocket]| sockets.iter().filter_map(listener).collect::<Vec<_>>();
        let inode = |found: Option<&Listener>| found.map_or(0, |found| found.inode);
        pairs(&listeners(before), &listeners(after)).into_iter().map(|(old, new)| (inode(old), inode(new))).collect()
    }

    #[test]
    fn listener_of_the_same_address_is_paired_first() {
        let pair = [socket("0.0.0.0:80", 1), v6only("[::]:80", 2)];
        assert_eq!(paired(&pair, &[v6only("[::]:80", 4), socket("0.0.0.0:80", 3)]), [(1, 3), (2, 4)]);
        assert_eq!(paired(&pair, &[v6only("[::]:80", 4)]), [(1, 0), (2, 4)], "of the other family");
        assert_eq!(paired(&pair, &[socket("[::]:80", 4)]), [(1, 4), (2, 4)], "of both families");
        assert_eq!(paired(&pair[..1], &[socket("10.0.0.1:80", 4), socket("10.0.0.2:80", 5)]), [(1, 4), (0, 5)]);
        assert_eq!(paired(&pair, &[pair[0].clone(), v6only("[::]:80", 3)]), [(1, 1), (2, 3)]);
        assert_eq!(paired(&[], &pair[..1]), [(0, 1)]);
        let single = [pair[0].clone(), socket("10.0.0.1:80", 2)];
        assert_eq!(paired(&single, &[socket("10.0.0.1:80", 4), socket("0.0.0.0:80", 3)]), [(1, 3), (2, 4)]);
    }

    #[test]
    fn message_says_why_the_hold_ended() {
        let over = |reason, doubt: Option<&str>| {
            let at = std::time::Instant::now();
            over(&HoldOutcome {
                stats: Default::default(),
                at,
                reason,
                doubt: doubt.map(Into::into),
                notes: Vec::new(),
            })
        };
        assert!(over(EndReason::Max, Some("2 SYNs were not delivered")).contains("--max"));
        assert!(over(EndReason::Asked, None).contains("--max"));
        assert!(over(EndReason::Lifted, None).contains("reloader release"));
        assert_eq!(over(EndReason::Lifted, Some("its holder stood still")), "its holder stood still");
        assert_eq!(over(EndReason::Failed, Some("its guard died")), "its guard died");
    }
}

//! What a hold around a command proves for each listener.

use std::collections::HashSet;

use super::presence::Presence;
use super::{Waited, Window};
use crate::gate::hold::{Backend, Ended, Target};
use crate::listener::{Address, Endpoint, Listener, Role};
use crate::reload::drain::Drain;
use crate::reload::held::{general_doubt, judge_held, lost, rung, syns};
use crate::reload::receipt::{ListenerReceipt, Rung};
use crate::reload::recorder::Recorder;
use crate::reload::retire::undrained;

/// The held address as an endpoint.
pub(super) fn endpoint(target: &Target) -> Endpoint {
    Endpoint { v6only: target.v6only, ..Endpoint::stream(Address::Inet(target.address)) }
}

/// Says which requests may be cut: the command is about to stop their server.
pub(super) fn note_unanswered(drain: &Drain, recorder: &mut Recorder) {
    match drain.unanswered() {
        0 => {}
        1 => recorder.note("1 request had no answer yet when the command was started"),
        many => recorder.note(format!("{many} requests had no answer yet when the command was started")),
    }
}

/// Why the whole hold counts as failed, in a sentence.
pub(super) fn failure(waited: &Waited, nothing_listens: bool) -> Option<String> {
    match waited {
        Waited::TimeOver if nothing_listens => {
            Some("the hold ended before a new listener was there: SYNs are refused now".into())
        }
        Waited::Blind(error) => {
            Some(format!("released, because it could not be seen whether a new listener is there: {error}"))
        }
        Waited::Failed(ended) => Some(format!("the command {ended}; what listened before still does")),
        Waited::Signal(signal) => {
            Some(format!("released by signal {} before a new listener was there", signal.as_raw()))
        }
        _ => None,
    }
}

/// Fills the receipt.
pub(super) fn record(
    recorder: &mut Recorder,
    window: &Window,
    now: &Presence,
    drain: &Drain,
    waited: &Waited,
    backend: Backend,
    ended: &Ended,
) {
    ended.notes.iter().for_each(|note| recorder.note(note));
    recorder.receipt().syns = syns(ended);
    let general = general_doubt(ended);
    let old: HashSet<u64> = window.before.listeners().iter().map(|listener| listener.inode).collect();
    let mut listed = HashSet::new();
    let mut receipts = Vec::new();
    for (before, after) in window.before.of.iter().zip(&now.of) {
        let mut fresh = after.iter().filter(|listener| !old.contains(&listener.inode));
        let mut one = |old: Option<&Listener>, new: Option<&Listener>| {
            let key = (old.map(|listener| listener.inode), new.map(|listener| listener.inode));
            if listed.insert(key) {
                receipts.extend(entry(old, new, drain, waited, backend, general.as_deref()));
            }
        };
        for old in before {
            let same = after.iter().find(|listener| listener.inode == old.inode);
            one(Some(old), same.or_else(|| fresh.next()));
        }
        fresh.for_each(|new| one(None, Some(new)));
    }
    recorder.receipt().notes.extend(lost(&ended.figures));
    recorder.receipt().lost.undrained = undrained(&receipts);
    recorder.receipt().listeners = receipts;
}

fn entry(
    old: Option<&Listener>,
    new: Option<&Listener>,
    drain: &Drain,
    waited: &Waited,
    backend: Backend,
    general: Option<&str>,
) -> Option<ListenerReceipt> {
    let endpoint = &old.or(new)?.endpoint;
    let mut receipt = ListenerReceipt::new(endpoint, Role::Traffic, rung(backend));
    receipt.inode_before = old.map(|listener| listener.inode);
    receipt.inode_after = new.map(|listener| listener.inode);
    let left = old.map(|old| drain.undrained(old)).unwrap_or_default();
    if old.is_none() || receipt.inode_before != receipt.inode_after {
        let doubt = match new {
            None => Some("no new listener took its place".into()),
            // What passed a lapsed lease would be taken for something that came by another way.
            Some(_) => general.map(Into::into).or_else(|| drain.doubt(endpoint)),
        };
        judge_held(&mut receipt, left, doubt, backend);
        if old.is_none() {
            // There was nothing to be drained.
            (receipt.undrained_queue, receipt.undrained_half_open, receipt.half_open_silent) = (None, None, None);
        }
    } else if matches!(waited, Waited::Both | Waited::TimeOver) {
        receipt.rung = Rung::Unproven;
        let stays = "the old server has not closed it: what it queues from now on is lost when it does";
        receipt.why = Some(general.map_or(stays.into(), |general| format!("{general}; {stays}")));
    } else {
        receipt.rung = Rung::Passed;
    }
    Some(receipt)
}

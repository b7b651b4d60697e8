//! What a hold around a command proves for each listener.

use std::collections::HashSet;

use super::presence::Presence;
use super::{Waited, Window};
use crate::gate::hold::{Backend, Ended, Target, Why};
use crate::listener::{Address, Endpoint, Listener, Role};
use crate::reload::drain::Drain;
use crate::reload::receipt::{ListenerReceipt, Rung, Syns};
use crate::reload::recorder::Recorder;

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
    let undrained = receipts.iter().map(|r| r.undrained_queue.unwrap_or(0) + r.undrained_half_open.unwrap_or(0)).sum();
    recorder.receipt().lost.undrained = Some(undrained);
    recorder.receipt().listeners = receipts;
}

/// What became of SYNs, as receipts tell it.
pub(crate) fn syns(ended: &Ended) -> Syns {
    let figures = ended.figures;
    Syns {
        seen: None,
        held: figures.held,
        released: figures.released,
        dropped: figures.dropped,
        lease_lapsed: figures.lease_lapsed,
        longest_hold_us: figures.longest.as_micros() as u64,
    }
}

/// Why a hold proves nothing for any of its listeners, if so.
pub(crate) fn general_doubt(ended: &Ended) -> Option<String> {
    if ended.figures.lease_lapsed > 0 {
        return Some(format!(
            "{} SYNs passed while the lease of the hold had run out: this process was stopped, or starved",
            ended.figures.lease_lapsed
        ));
    }
    match ended.why {
        Why::Asked => None,
        Why::Max => Some("the hold ended before the new listener was there, because its longest time was over".into()),
        Why::Lifted => Some("the hold was lifted by `reloader release` before the new listener was there".into()),
    }
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
    let undrained = old.map(|old| drain.undrained(old)).unwrap_or_default();
    receipt.undrained_queue = Some(undrained.queue);
    receipt.undrained_half_open = Some(undrained.half_open);
    receipt.half_open_silent = Some(undrained.silent);
    let kept = old.is_some() && receipt.inode_before == receipt.inode_after;
    let why = if kept && matches!(waited, Waited::Both | Waited::TimeOver) {
        Some("the old server has not closed it: what it queues from now on is lost when it does".into())
    } else if kept {
        receipt.rung = Rung::Passed;
        (receipt.undrained_queue, receipt.undrained_half_open) = (Some(0), Some(0));
        None
    } else if new.is_none() {
        Some("no new listener took its place".into())
    } else if undrained.queue + undrained.half_open > 0 {
        Some(format!(
            "its queue did not run empty within 500 ms: {} connections and {} handshakes were left to the old server",
            undrained.queue, undrained.half_open
        ))
    } else {
        drain.doubt(endpoint).or_else(|| general.map(Into::into))
    };
    if let Some(why) = why {
        receipt.rung = Rung::Unproven;
        receipt.why = Some(why);
    }
    Some(receipt)
}

/// The rung that a gate stands for.
pub(crate) fn rung(backend: Backend) -> Rung {
    match backend {
        Backend::Ebpf => Rung::HeldEbpf,
        Backend::Qdisc => Rung::HeldQdisc,
    }
}

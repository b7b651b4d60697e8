//! Makes the proven generation the serving one, tells the old one to drain, and measures what its listeners leave behind.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::confirm::Verdict;
use super::receipt::{ListenerReceipt, Rung};
use super::recorder::Recorder;
use crate::custody::Custody;
use crate::haproxy::inspect::Inspection;
use crate::kernel::sock_diag::{self, SockDiagError};
use crate::listener::{Address, Listener};
use crate::process::Handle;
use crate::supervision::Supervisor;

/// How long the old generation may take to close its listeners. No event tells of close(2) in another process.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Carries out the second phase. From here on the new generation serves, whatever the old one does.
pub(crate) async fn retire(
    supervisor: &mut Supervisor,
    inspection: Inspection,
    verdicts: Vec<Verdict>,
    recorder: &mut Recorder,
) {
    let Some(mut new) = supervisor.starting.take() else { return };
    new.listeners = inspection.owned;
    new.serving_since = Instant::now();
    new.note_leaves();
    let mut custody = inspection.custody;
    custody.complete_from(&supervisor.custody, &inspection.sockets);
    let old = supervisor.serving.as_ref().map(|old| old.process.clone());
    let before = supervisor.promote(new, custody);

    if let Some(old) = old {
        old.signal(Signal::USR1);
        let patience = supervisor.config.reload.drain_timeout;
        if !stopped_listening(&old, &before, patience).await {
            recorder.note(format!(
                "the old generation (process {}) still has its listeners {} after it was told to drain",
                old.pid(),
                humantime::format_duration(patience)
            ));
        }
    }
    // Now the daemon's duplicates are the last: what their queues hold is what the next line loses.
    let receipts = measured(verdicts, &before, recorder);
    drop(before);
    recorder.receipt().lost.undrained = undrained(&receipts);
    recorder.receipt().listeners = receipts;
}

async fn stopped_listening(old: &Handle, custody: &Custody, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while custody.is_still_owned() && old.try_ended().is_none() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    true
}

fn measured(verdicts: Vec<Verdict>, before: &Custody, recorder: &mut Recorder) -> Vec<ListenerReceipt> {
    let closing = verdicts.iter().any(|verdict| verdict.closing.is_some());
    let queues = if closing { sock_diag::listeners() } else { Ok(Vec::new()) };
    let queues = queues.unwrap_or_else(|error| {
        recorder.note(format!("what the closed listeners left undrained is not known: {error}"));
        Vec::new()
    });
    let held = |listener: &Listener| before.held().iter().any(|held| held.listener.inode == listener.inode);
    let mut receipts = Vec::with_capacity(verdicts.len());
    for Verdict { mut receipt, closing } in verdicts {
        if let Some(listener) = closing.filter(held) {
            receipt.undrained_queue =
                queues.iter().find(|found| found.inode == listener.inode).map(|found| found.queued.into());
            // A half-open handshake names its address only: with another listener on it there is no telling whose it is.
            if receipt.rung == Rung::Removed
                && let Ok((answering, silent)) = half_open(&listener)
            {
                receipt.undrained_half_open = Some(answering);
                receipt.half_open_silent = Some(silent);
            }
        }
        receipts.push(receipt);
    }
    receipts
}

/// Half-open handshakes of a listener: those in time, and those whose SYN-ACK was already sent again.
fn half_open(listener: &Listener) -> Result<(u64, u64), SockDiagError> {
    let Address::Inet(address) = listener.endpoint.address else { return Ok((0, 0)) };
    let pending = sock_diag::half_open(address.port())?;
    let mine = pending.iter().filter(|connection| listener.endpoint.covers(connection.local));
    let (silent, answering): (Vec<_>, Vec<_>) = mine.partition(|connection| connection.retransmits > 0);
    Ok((answering.len() as u64, silent.len() as u64))
}

/// The sum over all listeners that went away; `None` when one of them could not be measured.
fn undrained(receipts: &[ListenerReceipt]) -> Option<u64> {
    let gone = receipts.iter().filter(|receipt| match receipt.rung {
        Rung::Removed => true,
        Rung::Unproven => receipt.inode_before.is_some(),
        _ => false,
    });
    gone.map(|receipt| Some(receipt.undrained_queue? + receipt.undrained_half_open.unwrap_or(0))).sum()
}

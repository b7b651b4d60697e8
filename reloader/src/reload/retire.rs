//! Makes the proven generation the serving one, tells the old one to drain, and measures what its listeners leave behind.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::stop_listening::{Closed, OldListeners};
use super::verdict::Verdict;
use crate::kernel::sock_diag::{self, Connection, SockDiagError};
use crate::model::listener::{Address, Listener};
use crate::process::Handle;
use crate::receipt::Recorder;
use crate::receipt::{ListenerReceipt, Rung};
use crate::sockets::custody::Custody;
use crate::sockets::inspection::Inspection;
use crate::supervision::{Generation, Supervisor};

/// How often the old generation's listeners are looked at: no event tells of close(2) in another process.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Carries out the second phase. From here on the new generation serves, whatever the old one does. False where the old one was
/// not seen to close its listeners.
pub(crate) async fn retire(
    supervisor: &mut Supervisor,
    inspection: Inspection,
    verdicts: Vec<Verdict>,
    recorder: &mut Recorder,
) -> bool {
    let Some(mut new) = supervisor.starting.take() else { return true };
    new.listeners = inspection.owned;
    new.sentinel = inspection.sentinel;
    new.serving_since = Instant::now();
    new.note_worker_processes(&inspection.sockets);
    let mut custody = inspection.custody;
    custody.complete_from(supervisor.custody.kept(), &inspection.sockets);
    custody.complete_from(&std::mem::take(&mut new.given), &inspection.sockets);
    supervisor.limit_custody(&mut custody);
    let old = supervisor.serving.as_ref().map(Generation::ending);
    let closing: Vec<&Listener> = verdicts.iter().filter_map(|verdict| verdict.closing.as_ref()).collect();
    let old_listeners = OldListeners::new(supervisor, &closing);
    let before = supervisor.promote(new, custody);

    let mut closed = true;
    if let Some(old) = old {
        supervisor.server.retire(&old);
        let old = old.process;
        let patience = supervisor.config.reload.drain_timeout;
        let (board, name) = (&supervisor.board, &supervisor.name);
        closed = board.with_heartbeat(name, stopped_listening(&old, &before, patience)).await;
        if !closed {
            recorder.note(format!(
                "the old generation (process {}) still has its listeners {} after it was told to drain",
                old.pid(),
                humantime::format_duration(patience)
            ));
        }
    }
    supervisor.fd_store.settle().await;
    // Now the daemon's duplicates are the last: what their queues hold is what the drop below loses.
    let measured = if closed { Measured::now(&verdicts, &before, recorder) } else { Measured::default() };
    let receipts: Vec<ListenerReceipt> = verdicts.into_iter().map(|verdict| measured.fill(verdict)).collect();
    drop(before);
    if let Some(listeners) = old_listeners.filter(|_| closed)
        && listeners.stop(supervisor.config.reload.drain_timeout).await != Closed::Gone
    {
        recorder.note("the kernel still listens on an old listener, though the old generation has closed it");
        closed = false;
    }
    recorder.receipt().lost.undrained = undrained(&receipts);
    recorder.receipt().listeners = receipts;
    closed
}

/// False when it still listens after `patience`.
pub(crate) async fn stopped_listening(old: &Handle, custody: &Custody, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while custody.is_still_owned() && old.try_ended().is_none() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    true
}

/// What the closing listeners held at the moment between the old generation's close and the daemon's.
#[derive(Default)]
struct Measured {
    /// Accept queues by inode, of listeners that the daemon holds: of others the queue is gone already.
    queues: HashMap<u64, u32>,
    half_open: Option<Vec<Connection>>,
    /// Ports on which the new generation listens.
    ports: HashSet<u16>,
}

impl Measured {
    fn now(verdicts: &[Verdict], before: &Custody, recorder: &mut Recorder) -> Measured {
        if verdicts.iter().all(|verdict| verdict.closing.is_none()) {
            return Measured::default();
        }
        Measured::read(verdicts, before).unwrap_or_else(|error| {
            recorder.note(format!("what the closed listeners left undrained is not known: {error}"));
            Measured::default()
        })
    }

    fn read(verdicts: &[Verdict], before: &Custody) -> Result<Measured, SockDiagError> {
        let held: HashSet<u64> = before.kept().iter().map(|held| held.listener.inode).collect();
        let queues = sock_diag::listeners()?.into_iter().filter(|found| held.contains(&found.inode));
        let queues = queues.map(|found| (found.inode, found.queued)).collect();
        let ports = verdicts.iter().filter_map(|verdict| verdict.serving_port).collect();
        Ok(Measured { queues, half_open: Some(sock_diag::half_open(0)?), ports })
    }

    fn fill(&self, verdict: Verdict) -> ListenerReceipt {
        let Verdict { mut receipt, closing, .. } = verdict;
        let Some(listener) = closing else { return receipt };
        let Some(queued) = self.queues.get(&listener.inode) else { return receipt };
        receipt.undrained_queue = Some((*queued).into());
        // A half-open handshake names its address only: with another listener on that port there is no telling whose it is.
        let shares_port = listener.endpoint.port().is_some_and(|port| self.ports.contains(&port));
        if !shares_port && let Some(pending) = &self.half_open {
            let (answering, silent) = half_open_of(&listener, pending);
            receipt.undrained_half_open = Some(answering);
            receipt.half_open_silent = Some(silent);
        }
        receipt
    }
}

/// Half-open handshakes of a listener: those in time, and those whose SYN-ACK was already sent again.
fn half_open_of(listener: &Listener, pending: &[Connection]) -> (u64, u64) {
    if !matches!(listener.endpoint.address, Address::Inet(_)) {
        return (0, 0);
    }
    let mine = pending.iter().filter(|connection| listener.endpoint.covers(connection.local));
    let (silent, answering): (Vec<_>, Vec<_>) = mine.partition(|connection| connection.retransmits > 0);
    (answering.len() as u64, silent.len() as u64)
}

/// The sum over all listeners that went away; `None` when one of them could not be measured.
pub(crate) fn undrained(receipts: &[ListenerReceipt]) -> Option<u64> {
    let gone = receipts.iter().filter(|receipt| match receipt.rung {
        Rung::Removed => true,
        Rung::Unproven => receipt.inode_before.is_some(),
        _ => false,
    });
    gone.map(|receipt| Some(receipt.undrained_queue? + receipt.undrained_half_open?)).sum()
}

//! Makes the proven generation the serving one, asks the old one to drain, and measures what its listeners leave behind.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::stop_listening::{Closed, OldListeners};
use crate::kernel::sock_diag::{self, Connection, SockDiagError};
use crate::model::listener::{Address, Listener};
use crate::process::{Handle, pause_briefly};
use crate::receipt::{ListenerReceipt, ReasonCode, Recorder, undrained};
use crate::reload::attempt::Attempt;
use crate::reload::timing::{LONGEST_WAIT, POLL_INTERVAL};
use crate::reload::verdict::Verdict;
use crate::sockets::custody::Custody;
use crate::sockets::inspection::Inspection;
use crate::supervision::{Generation, Notice};

/// A server that closes its listeners when it is told to has done so within this time. It is looked at more often until then.
const SOON: Duration = Duration::from_millis(20);

impl Attempt<'_> {
    /// Carries out the second phase. From here on the new generation serves, whatever the old one does. False where the old one was not seen
    /// to close its listeners.
    pub(in crate::reload) async fn retire(&mut self, inspection: Inspection, verdicts: Vec<Verdict>) -> bool {
        let Some(new) = self.supervisor.take_starting() else { return true };
        let old = self.supervisor.serving().map(Generation::retire_request);
        let grace = self.supervisor.serving().and_then(|serving| serving.drain_times.grace);
        let closing: Vec<&Listener> = verdicts.iter().filter_map(|verdict| verdict.closing.as_ref()).collect();
        let old_listeners = OldListeners::new(self.supervisor, &closing);
        let before = self.promote(new, inspection);
        self.supervisor.replace_warning(Notice::NextReload, self.next_obstacle.take());

        let mut closed = true;
        if let Some(old) = old {
            self.supervisor.server().retire(&old);
            // While SYNs are held, clients would wait for as long.
            let grace = grace.filter(|_| self.protection.held.is_none());
            closed = self.await_close(&old.process, &before, grace.unwrap_or_default()).await;
            // nginx may have taken a path away already.
            self.supervisor.mend_paths().await;
        }
        self.supervisor.settle_service_manager().await;
        // Now only the daemon has the closing listeners open. What is in their queues is lost when `before` is dropped below.
        let measured = if closed { Measured::now(&verdicts, &before, &mut self.recorder) } else { Measured::default() };
        let receipts: Vec<ListenerReceipt> = verdicts.into_iter().map(|verdict| measured.fill(verdict)).collect();
        drop(before);
        let (heartbeat, timeout) = (self.supervisor.heartbeat(), self.supervisor.config().reload.drain_timeout);
        if let Some(listeners) = old_listeners.filter(|_| closed) {
            let note = match heartbeat.during(listeners.stop(timeout)).await {
                Closed::Gone => None,
                Closed::Attended => {
                    Some("a process of the old generation still waits for connections on an old listener")
                }
                Closed::Listening => {
                    Some("the kernel still listens on an old listener, though the old generation has closed it")
                }
            };
            closed = note.is_none();
            note.into_iter().for_each(|note| self.recorder.note(note));
        }
        self.recorder.receipt().lost.undrained = undrained(&receipts);
        self.recorder.receipt().listeners = receipts;
        closed
    }

    /// Makes `new` the serving generation. Returns the custody from before.
    fn promote(&mut self, mut new: Generation, inspection: Inspection) -> Custody {
        new.listeners = inspection.owned;
        new.sentinel = inspection.sentinel;
        new.serving_since = Instant::now();
        new.log_start_lines(self.supervisor.name());
        new.note_worker_processes(&inspection.sockets);
        let mut custody = inspection.custody;
        custody.complete_from(self.supervisor.custody().kept(), &inspection.sockets);
        custody.complete_from(&std::mem::take(&mut new.given), &inspection.sockets);
        self.supervisor.limit_custody(&mut custody);
        self.supervisor.promote(new, custody)
    }

    /// False where the old generation still has a listener after `drain-timeout`, and after the time for which it goes on accepting.
    async fn await_close(&mut self, old: &Handle, before: &Custody, grace: Duration) -> bool {
        let grace = grace.min(LONGEST_WAIT);
        let timeout = self.supervisor.config().reload.drain_timeout + grace;
        let (heartbeat, began) = (self.supervisor.heartbeat(), Instant::now());
        let closed = heartbeat.during(stopped_listening(old, before, timeout)).await;
        if !closed {
            let sentence = format!(
                "the old generation (process {}) still has its listeners {} after it was told to drain: it may get a share of the new connections",
                old.pid(),
                humantime::format_duration(timeout)
            );
            self.recorder.doubt(ReasonCode::OldStillOpen, sentence);
        } else if !grace.is_zero() {
            self.recorder.note(format!(
                "the old generation closed its listeners {} after it was told to drain (`grace` in its configuration is {})",
                humantime::format_duration(Duration::from_millis(began.elapsed().as_millis() as u64)),
                humantime::format_duration(grace)
            ));
        }
        closed
    }
}

/// False when it still listens after `timeout`.
pub(in crate::reload) async fn stopped_listening(old: &Handle, custody: &Custody, timeout: Duration) -> bool {
    let began = Instant::now();
    while custody.is_still_owned() && old.try_ended().is_none() {
        if began.elapsed() >= timeout {
            return false;
        }
        // It is a matter of a millisecond, or of as long as the server likes.
        match began.elapsed() < SOON {
            true => pause_briefly().await,
            false => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
    true
}

/// What was queued on the closing listeners at the moment between the old generation's close and the daemon's.
#[derive(Default)]
struct Measured {
    /// Accept queues by inode, of listeners in custody: of others the queue is gone already.
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
        // The kernel lists a half-open handshake by its address only. Where another listener has that port, the handshake may belong to either.
        let shares_port = listener.endpoint.port().is_some_and(|port| self.ports.contains(&port));
        if !shares_port && let Some(pending) = &self.half_open {
            let (answering, silent) = half_open_of(&listener, pending);
            receipt.undrained_half_open = Some(answering);
            receipt.half_open_silent = Some(silent);
        }
        receipt
    }
}

/// Half-open handshakes of a listener: those whose SYN-ACK was sent once, and those whose client is silent.
fn half_open_of(listener: &Listener, pending: &[Connection]) -> (u64, u64) {
    if !matches!(listener.endpoint.address, Address::Inet(_)) {
        return (0, 0);
    }
    let mine = pending.iter().filter(|connection| listener.endpoint.covers(connection.local));
    let (silent, answering): (Vec<_>, Vec<_>) = mine.partition(|connection| connection.retransmits > 0);
    (answering.len() as u64, silent.len() as u64)
}

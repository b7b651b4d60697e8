//! Runs one reload for all requests that wait, once there is no reason to wait.

use std::time::{Duration, Instant};

use super::event_loop::EventLoop;
use super::events::PendingReply;
use super::protocol::Reply;
use super::timing::HOUSEKEEPING_INTERVAL;
use crate::config::AtMaxDraining;
use crate::haproxy::peers::{Resync, resync};
use crate::haproxy::runtime_api;
use crate::receipt::{Kind, Outcome};
use crate::reload::attempt::ReloadRequest;
use crate::reload::run::run as run_reload;
use crate::sys::give_back_idle_memory;

/// HAProxy's own limit for a resync is 5 s for each of its two steps (PEER_RESYNC_TIMEOUT).
const LONGEST_RESYNC: Duration = Duration::from_secs(15);
/// A retired HAProxy connects to its successor's local peer at once, or never.
const TEACHING_BEGINS_WITHIN: Duration = Duration::from_secs(1);

enum Wait {
    No,
    Yes(String),
    TooLong(String),
}

impl EventLoop {
    /// Runs one reload for all requests that wait, unless there is a reason to wait.
    pub(super) async fn reload_when_possible(&mut self) {
        if self.queue.pending.is_empty() {
            return;
        }
        let mut note = None;
        match self.reason_to_wait().await {
            Wait::No => {}
            Wait::TooLong(loss) => note = Some(loss),
            Wait::Yes(phase) => return self.queue.tell_all(self.supervisor.name(), phase),
        }
        // Requests that arrived meanwhile belong to the same reload.
        while let Ok(event) = self.events.try_recv() {
            self.take(event);
        }
        if !self.queue.stops.is_empty() {
            return;
        }
        self.queue.end_wait();
        self.restore_runtime_dir();
        // Another process may have reloaded HAProxy a moment ago.
        self.follow_companion().await;
        let batch = std::mem::take(&mut self.queue.pending);
        self.reload_for(&batch, note).await;
        self.queue.last_reload = Some(Instant::now());
    }

    async fn reload_for(&mut self, batch: &[PendingReply], note: Option<String>) {
        if let Some(message) = self.supervisor.outage().adoption_blocked() {
            let message = format!(
                "nothing was adopted, so nothing is reloaded: {message} (the daemon looks again when it is started again)"
            );
            log::warn!("{}: not reloaded: {message}", self.supervisor.name());
            return batch.iter().for_each(|waiter| waiter.send(Reply::Refused { message: message.clone(), exit: 1 }));
        }
        let asked = batch.iter().map(|waiter| waiter.asked).min().unwrap_or_else(Instant::now);
        self.supervisor.forget_refused_check();
        let asked_by = batch.iter().min_by_key(|waiter| waiter.asked).and_then(|waiter| waiter.asked_by.clone());
        let coalesced = batch.len() as u64 - 1;
        let ask = ReloadRequest { kind: Kind::Reload, asked, coalesced, use_known_good: false, asked_by };
        let tell = |phase: &str| {
            batch.iter().for_each(|waiter| waiter.send(Reply::Progress { phase: phase.to_owned(), begun: true }));
        };
        tell("reading the configuration");
        let mut receipt = run_reload(&mut self.supervisor, ask, &tell).await;
        if receipt.result != Outcome::Failed {
            receipt.notes.extend(note);
        }
        let not_stored = self.supervisor.store_receipt(&receipt).await;
        self.supervisor.publish();
        let serving = self.supervisor.serves();
        for waiter in batch {
            let (receipt, not_stored) = (Box::new(receipt.clone()), not_stored.clone());
            waiter.send(Reply::Receipt { receipt, not_stored, serving });
        }
        // The answers are written now. What the loop does next may take long: the kernel forgets /proc/PID/fd of an old process with thousands of
        // descriptors for ten milliseconds when it is waited for (`proc_flush_pid`).
        tokio::task::yield_now().await;
        tokio::task::spawn_blocking(give_back_idle_memory);
    }

    async fn reason_to_wait(&mut self) -> Wait {
        let settings = &self.supervisor.config().reload;
        if self.queue.last_reload.is_some_and(|last| last.elapsed() < settings.min_interval) {
            return Wait::Yes("waiting for min-interval".into());
        }
        if settings.max_draining > 0 && self.supervisor.generations().draining().len() >= settings.max_draining {
            match settings.at_max_draining {
                AtMaxDraining::Wait => {
                    let phase = "waiting for a draining generation to end (max-draining)";
                    // Nothing says how long the wait is, so `status` has a warning about it.
                    if self.supervisor.set_waits(Some(phase)) {
                        self.supervisor.publish();
                    }
                    return Wait::Yes(phase.into());
                }
                AtMaxDraining::EndOldest => {
                    let oldest = self.supervisor.generations().draining()[0].number;
                    self.end_early(oldest, "max-draining").await;
                }
            }
        }
        if self.supervisor.set_waits(None) {
            self.supervisor.publish();
        }
        self.resync_wait().await
    }

    /// Whether to wait for a resync. A generation that is still learning the stick tables would leave its successor without entries.
    async fn resync_wait(&mut self) -> Wait {
        let waits = match self.resync().await {
            None | Some(Resync::NoLocalPeer | Resync::Finished) => false,
            Some(Resync::Untaught) => self.supervisor.predecessor_may_teach(TEACHING_BEGINS_WITHIN),
            Some(Resync::Running) => true,
        };
        if !waits {
            return Wait::No;
        }
        let since = *self.queue.waits_since.get_or_insert_with(Instant::now);
        if since.elapsed() < LONGEST_RESYNC {
            return Wait::Yes("waiting for the stick tables' resync (show peers)".into());
        }
        Wait::TooLong("the stick tables were lost: the old generation was still learning them (show peers)".into())
    }

    /// What the serving generation says of its peers; `None` when nothing serves or it does not answer.
    pub(super) async fn resync(&self) -> Option<Resync> {
        let serving = self.supervisor.serving().filter(|_| self.supervisor.server().answers_runtime_api())?;
        runtime_api::ask(&serving.socket, "show peers", HOUSEKEEPING_INTERVAL).await.ok().map(|answer| resync(&answer))
    }
}

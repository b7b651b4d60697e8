//! Starts a generation again after a crash, ends generations early where the configuration asks for it, and retires them when the daemon stops.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;

use super::event_loop::EventLoop;
use super::first_start::{runs_known_good, sentence_of};
use super::timing::HOUSEKEEPING_INTERVAL;
use crate::haproxy::master::runs_programs;
use crate::haproxy::peers::Resync;
use crate::process;
use crate::receipt::{Kind, Outcome, Recorder};
use crate::reload::attempt::ReloadRequest;
use crate::reload::run::run as run_reload;
use crate::supervision::{Generation, Notice};

/// No event tells that a master has lost its last worker.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl EventLoop {
    /// The serving generation has ended by itself: a new one gets its sockets from custody.
    pub(super) async fn restart(&mut self) {
        let Some(outage) = self.supervisor.outage().current() else { return };
        let use_known_good = outage.use_known_good();
        let ask = ReloadRequest { use_known_good, ..ReloadRequest::now(Kind::Restart) };
        let mut receipt = run_reload(&mut self.supervisor, ask, &|_| {}).await;
        if receipt.result != Outcome::Failed && !matches!(self.resync().await, None | Some(Resync::NoLocalPeer)) {
            receipt
                .notes
                .push("the stick tables were lost with the process that ended, but for what other peers teach".into());
        }
        self.supervisor.store_receipt(&receipt).await;
        if self.supervisor.count_failed_start() {
            let sentence = sentence_of(&receipt);
            self.supervisor.warn(Notice::NothingServes, format!("nothing serves: {sentence}"));
            // A failure of the last-known-good configuration says nothing about the one on disk.
            if !use_known_good {
                self.start_failure = Some(sentence);
            }
            self.supervisor.tick();
        } else if let Some(why) = &self.start_failure
            && use_known_good
            && self.supervisor.last_known_good().is_some()
        {
            self.supervisor.warn(Notice::LastKnownGood, runs_known_good(why));
        }
        if receipt.result != Outcome::Failed {
            self.start_failure = None;
        }
        self.supervisor.publish();
    }

    /// Ends what has drained for longer than `hard-stop-after`.
    pub(super) async fn end_overdue(&mut self) {
        for number in self.supervisor.overdue() {
            self.end_early(number, "hard-stop-after").await;
        }
    }

    /// Ends a draining generation because the configuration asks for it; what that cuts is counted in a receipt.
    pub(super) async fn end_early(&mut self, number: u64, setting: &str) {
        let Some(generation) =
            self.supervisor.generations().draining().iter().find(|generation| generation.number == number)
        else {
            return;
        };
        let mut recorder =
            Recorder::begin(Some(self.supervisor.name()), Kind::End, Instant::now(), 0, Some(generation.id()));
        recorder.receipt().lost.cut = generation.open_connections();
        recorder.note(format!("generation {number} was ended while it drained, as {setting} asks"));
        generation.process.signal(Signal::TERM);
        if tokio::time::timeout(HOUSEKEEPING_INTERVAL, generation.process.ended()).await.is_err() {
            generation.kill().await;
        }
        let receipt = recorder.finish(Ok(()));
        self.supervisor.note_recorded_end(number);
        self.supervisor.store_receipt(&receipt).await;
        self.supervisor.reap_draining().await;
        self.supervisor.publish();
    }

    /// Tells the serving generation to drain, lets go of its listeners, and returns the first processes of the generations that
    /// connections keep: they outlive the daemon.
    pub(super) async fn retire_serving(&mut self) -> Vec<u32> {
        let served = self.supervisor.endpoints();
        self.supervisor.look_before_stop().await;
        self.supervisor.detach_steering_now();
        self.supervisor.leave_sockets();
        self.supervisor.settle_service_manager().await;
        self.supervisor.warn(Notice::Ending, "the daemon was told to end, and nothing new is served");
        if let Some(generation) = self.supervisor.take_serving() {
            let request = generation.retire_request();
            self.supervisor.begin_draining(generation).await;
            self.supervisor.server().retire(&request);
            self.supervisor.remove_pid_file_of(request.process.pid()).await;
            log::info!("process {} was told to drain and end", request.process.pid());
            self.supervisor.publish();
        }
        self.wait_for_the_idle().await;
        if process::is_init() {
            self.drain_all(&served).await;
            self.supervisor.publish();
            return Vec::new();
        }
        self.supervisor.publish();
        self.supervisor.generations().draining().iter().map(|generation| generation.process.pid()).collect()
    }

    /// Whether it is the master of a draining generation, with other programs beside its workers.
    pub(super) fn keeps_programs(&self, pid: u32) -> bool {
        let is_master = |generation: &Generation| generation.process.pid() == pid && generation.has_workers;
        self.supervisor.generations().draining().iter().any(is_master) && runs_programs(pid)
    }

    /// Waits a moment for generations without connections, which end at once: no later daemon should have to clean up after them.
    async fn wait_for_the_idle(&mut self) {
        let deadline = Instant::now() + HOUSEKEEPING_INTERVAL;
        while Instant::now() < deadline {
            let all =
                join_all(self.supervisor.generations().draining().iter().map(|generation| generation.process.ended()));
            if tokio::time::timeout(POLL_INTERVAL, all).await.is_ok() {
                break;
            }
            self.supervisor.end_idle_masters();
        }
        self.supervisor.reap_draining().await;
    }
}

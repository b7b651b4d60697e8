//! The loop of one service: handles one event at a time, in the order in which they come.

use std::path::PathBuf;

use futures_util::stream::{FuturesUnordered, StreamExt};
use rustix::process::Signal;
use tokio::sync::mpsc;

use super::events::{Event, pending_reply};
use super::protocol::Reply;
use super::queue::Queue;
use super::runtime_dir::SharedRuntimeDir;
use super::signals::SignalAction;
use super::timing::{HOUSEKEEPING_INTERVAL, RECHECK_INTERVAL, WORKER_POLL_INTERVAL};
use crate::process::{Ended, handles_signal, is_init, signal_name};
use crate::receipt::AskedBy;
use crate::supervision::{Generation, Supervisor};

/// The state of one service's loop.
pub(super) struct EventLoop {
    pub(super) supervisor: Supervisor,
    pub(super) config_path: Option<PathBuf>,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    signal_actions: mpsc::UnboundedReceiver<SignalAction>,
    pub(super) runtime_dir: SharedRuntimeDir,
    /// How often runtime-dir had been restored when this loop looked last.
    pub(super) restorations: u64,
    pub(super) queue: Queue,
    /// Why the last start after a crash failed.
    pub(super) start_failure: Option<String>,
}

/// What woke the loop.
enum LoopEvent {
    Event(Option<Event>),
    ServingEnded(Ended),
    FollowCompanion,
    DrainingEnded,
    RestartDue,
    HousekeepingDue,
    RecheckDue,
    Signal(SignalAction),
    Stop,
}

impl EventLoop {
    /// Takes over from the start-up.
    pub(super) fn new(
        supervisor: Supervisor,
        config_path: Option<PathBuf>,
        events: mpsc::UnboundedReceiver<Event>,
        signal_actions: mpsc::UnboundedReceiver<SignalAction>,
        runtime_dir: SharedRuntimeDir,
    ) -> EventLoop {
        EventLoop {
            supervisor,
            config_path,
            events,
            signal_actions,
            runtime_dir,
            restorations: 0,
            queue: Queue::default(),
            start_failure: None,
        }
    }

    /// Runs until SIGTERM, or until a client asks for the end.
    pub(super) async fn run_until_stopped(&mut self) {
        self.run().await;
        self.supervisor.remove_own_pid_file().await;
        // The next daemon reads what was recorded last. A failure is in the log.
        let _ = self.supervisor.record_now().await;
    }

    async fn run(&mut self) {
        let mut tick = tokio::time::interval(HOUSEKEEPING_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            match self.wait(&mut tick).await {
                LoopEvent::Event(None) => return,
                LoopEvent::Stop if self.supervisor.config().on_stop.retires(is_init()) => return self.stop().await,
                LoopEvent::Stop => return self.queue.refuse_all(),
                event => self.handle(event).await,
            }
            self.reload_when_possible().await;
            self.supervisor.retire_stopped().await;
            if !self.queue.stops.is_empty() {
                return self.stop().await;
            }
        }
    }

    async fn handle(&mut self, event: LoopEvent) {
        match event {
            LoopEvent::Event(event) => event.into_iter().for_each(|event| self.take(event)),
            LoopEvent::FollowCompanion => self.follow_companion().await,
            LoopEvent::ServingEnded(ended) if self.supervisor.server().owns_lifecycle() => {
                self.supervisor.serving_ended(ended);
                self.supervisor.publish();
            }
            LoopEvent::ServingEnded(ended) => self.companion_ended(ended).await,
            LoopEvent::DrainingEnded => {
                self.supervisor.reap_draining().await;
                self.supervisor.publish();
            }
            LoopEvent::RestartDue => {
                self.restore_runtime_dir();
                self.restart().await;
            }
            LoopEvent::HousekeepingDue => {
                self.supervisor.tick();
                self.restore_runtime_dir();
                self.end_overdue().await;
            }
            LoopEvent::Signal(action) => self.act_on_signal(action).await,
            LoopEvent::RecheckDue | LoopEvent::Stop => {}
        }
    }

    async fn act_on_signal(&mut self, mut action: SignalAction) {
        // Signals that came while the loop was busy are answered together with this one.
        while let Ok(further) = self.signal_actions.try_recv() {
            action = action.max(further);
        }
        // Where the configuration cannot be read, nothing is reloaded: the reload was meant for the new configuration.
        if self.read_configuration().await
            && let SignalAction::Reload(name) = action
        {
            // No client waits for the answer.
            self.queue.pending.push(pending_reply().0.from(AskedBy::signal(name)));
        }
    }

    /// Takes a request from the control socket.
    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Reload(waiter) => self.queue.pending.push(waiter),
            Event::Stop(waiter) => self.queue.stops.push(waiter),
            Event::Signal(signal, waiter) => waiter.send(self.send_signal(signal)),
            Event::Refused(reason) => {
                self.supervisor.note_refused_check(reason);
                self.supervisor.publish();
            }
        }
    }

    /// Sends a signal to the first process of each generation. All of them write to the same files, for example.
    fn send_signal(&self, signal: Signal) -> Reply {
        let name = signal_name(signal);
        let refused = |message: String| Reply::Refused { message, exit: 1 };
        if let Some(why) = self.supervisor.server().signal_refusal(signal) {
            return refused(format!("{name} is not sent to `{}`: {why}", self.supervisor.name()));
        }
        let generations = self.supervisor.generations();
        let all = generations.serving().into_iter().chain(generations.draining());
        let all: Vec<&Generation> = all.filter(|generation| generation.process.try_ended().is_none()).collect();
        // The default action of these ends no process.
        let harmless = [Signal::CHILD, Signal::URG, Signal::CONT].contains(&signal);
        let unprepared = |generation: &&&Generation| !harmless && !handles_signal(generation.process.pid(), signal);
        if let Some(generation) = all.iter().find(unprepared) {
            let pid = generation.process.pid();
            return refused(format!(
                "{name} is not sent: process {pid} does not handle it, and it would end or stop the process"
            ));
        }
        if all.is_empty() {
            return refused(format!("no generation of `{}` runs", self.supervisor.name()));
        }
        all.iter().for_each(|generation| generation.process.signal(signal));
        log::info!("{}: {name} was sent to {} processes, as a client asked", self.supervisor.name(), all.len());
        Reply::Signalled { sent: all.into_iter().map(Generation::id).collect() }
    }

    async fn stop(&mut self) {
        self.queue.refuse_all();
        let stays = !self.supervisor.server().owns_lifecycle();
        let drains = if stays { Vec::new() } else { self.retire_serving().await };
        // Requests that came meanwhile are answered too.
        while let Ok(event) = self.events.try_recv() {
            self.take(event);
        }
        self.queue.refuse_all();
        // A client that learns of the end may ask the next daemon at once, so the record is written first. A failure is in the log.
        let _ = self.supervisor.record_now().await;
        let with_programs: Vec<u32> = drains.iter().copied().filter(|pid| self.keeps_programs(*pid)).collect();
        for waiter in std::mem::take(&mut self.queue.stops) {
            waiter.send(Reply::Stopped { drains: drains.clone(), with_programs: with_programs.clone(), stays });
        }
    }

    async fn wait(&mut self, tick: &mut tokio::time::Interval) -> LoopEvent {
        let supervisor = &self.supervisor;
        let serving = async {
            match supervisor.serving() {
                Some(serving) => serving.process.ended().await,
                None => std::future::pending().await,
            }
        };
        let mut draining: FuturesUnordered<_> =
            supervisor.generations().draining().iter().map(|generation| generation.process.ended()).collect();
        let follow = async {
            match supervisor.server().companion() {
                Some(_) => tokio::time::sleep(WORKER_POLL_INTERVAL).await,
                None => std::future::pending().await,
            }
        };
        let restart = async {
            match supervisor.outage().current().filter(|_| supervisor.server().owns_lifecycle()) {
                Some(outage) => tokio::time::sleep_until(outage.next_try().into()).await,
                None => std::future::pending().await,
            }
        };
        let custody_ends = async {
            match supervisor.custody_ends() {
                Some(ends) => tokio::time::sleep_until(ends.into()).await,
                None => std::future::pending().await,
            }
        };
        let look = async {
            match self.queue.pending.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(RECHECK_INTERVAL).await,
            }
        };
        let mut stopping = supervisor.stopping();
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => LoopEvent::Stop,
            ended = serving => LoopEvent::ServingEnded(ended),
            () = restart => LoopEvent::RestartDue,
            () = follow => LoopEvent::FollowCompanion,
            () = custody_ends => LoopEvent::HousekeepingDue,
            Some(_) = draining.next(), if !draining.is_empty() => LoopEvent::DrainingEnded,
            // Before events: a stream of requests must not starve custody.
            _ = tick.tick() => LoopEvent::HousekeepingDue,
            Some(told) = self.signal_actions.recv() => LoopEvent::Signal(told),
            event = self.events.recv() => LoopEvent::Event(event),
            () = look => LoopEvent::RecheckDue,
        }
    }
}

//! The main loop: one thing at a time, in the order it comes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::control::{self, Control};
use super::protocol::Reply;
use super::requests::{Event, Waiter};
use super::{DaemonError, adopt, setup};
use crate::config::{AtMaxDraining, Config, OnStop};
use crate::custody::Custody;
use crate::gate::syn_counter::{self, SynCounter};
use crate::haproxy::broker::Broker;
use crate::haproxy::peers::{Resync, resync};
use crate::haproxy::runtime_api;
use crate::haproxy::version::VersionCache;
use crate::process::Ended;
use crate::reload::receipt::{Kind, Outcome, Receipt};
use crate::reload::recorder::Recorder;
use crate::reload::run::{Ask, run as run_reload};
use crate::supervision::{Journal, KnownGood, Supervisor, notify};
use crate::sys::Inheritance;

/// The rhythm of custody checks: a listener that the server closed leaves custody within twice this time.
const TICK: Duration = Duration::from_secs(1);
/// How often a wait before a reload (resync, min-interval, max-draining) is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// HAProxy's own limit for a resync is 5 s for each of its two steps (PEER_RESYNC_TIMEOUT).
const LONGEST_RESYNC: Duration = Duration::from_secs(15);
/// A retired HAProxy connects to its successor's local peer at once, or never.
const TEACHING_BEGINS_WITHIN: Duration = Duration::from_secs(1);

/// Runs the daemon until it is told to end.
pub async fn run(config: Config, config_path: Option<PathBuf>, inheritance: Inheritance) -> Result<(), DaemonError> {
    setup::check_privileges()?;
    let group = setup::control_group(&config)?;
    setup::directories(&config, group)?;
    let _lock = setup::lock(&config.runtime_dir)?;
    inheritance.raise_own_descriptor_limit().map_err(DaemonError::io("raising the limit of descriptors"))?;

    let broker = Broker::listen(&config.runtime_dir).map_err(DaemonError::io("creating the broker's socket"))?;
    let control_socket = control::listen(&config.control_socket, group)?;
    let (events_sender, events) = mpsc::unbounded_channel();
    let (stop_sender, stopping) = watch::channel(false);
    let published = Arc::new(Mutex::default());
    let journal = Journal::new(&config.state_dir, group);
    let name = config.control_group.as_str().into();
    let mut supervisor = Supervisor {
        last_receipt: journal.last(),
        known_good: KnownGood::open(&config.state_dir),
        journal,
        config,
        inheritance,
        broker,
        custody: Custody::default(),
        serving: None,
        draining: Vec::new(),
        starting: None,
        counter: None,
        counts: false,
        stopping,
        last_start: None,
        down: None,
        last_down: None,
        next_number: 1,
        versions: VersionCache::default(),
        warning: None,
        published: Arc::clone(&published),
    };
    supervisor.version()?;
    prepare_counter(&mut supervisor);
    tokio::spawn(watch_for_stop(stop_sender));
    begin_serving(&mut supervisor).await?;
    supervisor.publish();
    notify::ready();
    tokio::spawn(control::serve(control_socket, Control { group, name, events: events_sender, published }));

    let mut daemon = EventLoop {
        supervisor,
        config_path,
        events,
        pending: Vec::new(),
        last_reload: None,
        waits_since: None,
        start_failure: None,
    };
    daemon.run_until_stopped().await?;
    notify::stopping();
    let _ = std::fs::remove_file(&daemon.supervisor.config.control_socket);
    Ok(())
}

/// Removes what a daemon that was killed left in the packet path, and loads the counter where it is wanted.
fn prepare_counter(supervisor: &mut Supervisor) {
    match syn_counter::remove_stale() {
        Ok(0) => {}
        Ok(removed) => log::warn!("removed {removed} filters that an earlier daemon left in the packet path"),
        Err(error) => log::debug!("looking for filters of an earlier daemon: {error}"),
    }
    if supervisor.config.reload.count_syns {
        supervisor.counter = SynCounter::load().inspect_err(|error| log::warn!("{error}")).ok();
    }
}

/// SIGTERM and SIGINT set a flag at once, so that a start that hangs is given up.
async fn watch_for_stop(stopping: watch::Sender<bool>) {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else { return };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = stopping.send(true);
    // Kept open so that waiting for the flag goes on to work.
    std::future::pending::<()>().await;
}

/// Adopts what serves, or starts the first generation; the last-known-good one when the configuration does not start.
async fn begin_serving(supervisor: &mut Supervisor) -> Result<(), DaemonError> {
    if let Some(receipt) = adopt::adopt(supervisor).await? {
        supervisor.store_receipt(&receipt);
        return Ok(());
    }
    let mut reasons = Vec::new();
    for use_known_good in [false, true] {
        if use_known_good && supervisor.known_good.config().is_none() {
            break;
        }
        let ask = Ask { kind: Kind::Start, asked: Instant::now(), coalesced: 0, use_known_good };
        let receipt = run_reload(supervisor, ask, &|_| {}).await;
        supervisor.store_receipt(&receipt);
        if receipt.result != Outcome::Failed {
            if use_known_good {
                supervisor.warning = Some(runs_known_good(&reasons.join("\n")));
            }
            return Ok(());
        }
        reasons.push(sentence_of(&receipt));
    }
    Err(DaemonError::NothingServes(reasons.join("\n")))
}

fn runs_known_good(why: &str) -> String {
    format!("HAProxy runs the last-known-good configuration, because the one on disk does not start: {why}")
}

fn sentence_of(receipt: &Receipt) -> String {
    let reason = receipt.reason.as_deref().unwrap_or("the start failed");
    let lines = receipt.server_log.iter().map(|line| format!("\n  {line}"));
    format!("{reason}{}", lines.collect::<String>())
}

struct EventLoop {
    supervisor: Supervisor,
    config_path: Option<PathBuf>,
    events: mpsc::UnboundedReceiver<Event>,
    /// Reload requests that wait for the next reload.
    pending: Vec<Waiter>,
    last_reload: Option<Instant>,
    /// When the present wait for a resync began.
    waits_since: Option<Instant>,
    /// Why the last start after a crash failed.
    start_failure: Option<String>,
}

/// What woke the loop.
enum Woken {
    Event(Option<Event>),
    ServingEnded(Ended),
    DrainingEnded,
    RestartDue,
    Tick,
    Look,
    ReadConfiguration,
    Stop,
}

impl EventLoop {
    async fn run_until_stopped(&mut self) -> Result<(), DaemonError> {
        let mut hangup = signal(SignalKind::hangup()).map_err(DaemonError::io("listening for SIGHUP"))?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let woken = self.wait(&mut tick, &mut hangup).await;
            match woken {
                Woken::Event(Some(Event::Reload(waiter))) => self.pending.push(waiter),
                Woken::Event(Some(Event::Stop(waiter))) => {
                    let drains = self.retire_serving().await;
                    waiter.tell(Reply::Stopped { drains });
                    self.refuse_pending();
                    // The reply is written by another task of this thread.
                    tokio::time::timeout(TICK, waiter.delivered()).await.ok();
                    return Ok(());
                }
                Woken::Event(None) => return Ok(()),
                Woken::ServingEnded(ended) => {
                    self.supervisor.serving_ended(ended);
                    self.supervisor.publish();
                }
                Woken::DrainingEnded => {
                    self.supervisor.reap_draining();
                    self.supervisor.publish();
                }
                Woken::RestartDue => self.restart().await,
                Woken::Tick => {
                    self.supervisor.tick();
                    self.end_overdue().await;
                }
                Woken::Look => {}
                Woken::ReadConfiguration => self.read_configuration(),
                Woken::Stop => {
                    if self.supervisor.config.on_stop == OnStop::Retire {
                        self.retire_serving().await;
                    }
                    self.refuse_pending();
                    return Ok(());
                }
            }
            self.reload_when_possible().await;
        }
    }

    async fn wait(&mut self, tick: &mut tokio::time::Interval, hangup: &mut tokio::signal::unix::Signal) -> Woken {
        let supervisor = &self.supervisor;
        let serving = async {
            match &supervisor.serving {
                Some(serving) => serving.process.ended().await,
                None => std::future::pending().await,
            }
        };
        let mut draining: FuturesUnordered<_> =
            supervisor.draining.iter().map(|generation| generation.process.ended()).collect();
        let restart = async {
            match &supervisor.down {
                Some(down) => tokio::time::sleep_until(down.next_try().into()).await,
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
            match self.pending.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        };
        let mut stopping = supervisor.stopping.clone();
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => Woken::Stop,
            ended = serving => Woken::ServingEnded(ended),
            () = restart => Woken::RestartDue,
            () = custody_ends => Woken::Tick,
            Some(_) = draining.next(), if !draining.is_empty() => Woken::DrainingEnded,
            event = self.events.recv() => Woken::Event(event),
            _ = hangup.recv() => Woken::ReadConfiguration,
            _ = tick.tick() => Woken::Tick,
            () = look => Woken::Look,
        }
    }

    /// Runs one reload for all requests that wait, unless something speaks for waiting.
    async fn reload_when_possible(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut note = None;
        match self.reason_to_wait().await {
            Wait::No => {}
            Wait::TooLong(loss) => note = Some(loss),
            Wait::Yes(phase) => {
                for waiter in &self.pending {
                    waiter.tell(Reply::Progress { phase: phase.clone() });
                }
                return;
            }
        }
        self.waits_since = None;
        self.take_waiting_requests();
        let batch = std::mem::take(&mut self.pending);
        let asked = batch.iter().map(|waiter| waiter.asked).min().unwrap_or_else(Instant::now);
        let ask = Ask { kind: Kind::Reload, asked, coalesced: batch.len() as u64 - 1, use_known_good: false };
        let tell = |phase: &str| {
            for waiter in &batch {
                waiter.tell(Reply::Progress { phase: phase.to_owned() });
            }
        };
        let mut receipt = run_reload(&mut self.supervisor, ask, &tell).await;
        receipt.notes.extend(note);
        self.last_reload = Some(Instant::now());
        let not_stored = self.supervisor.store_receipt(&receipt);
        if not_stored.is_some() {
            self.supervisor.warning.clone_from(&not_stored);
        }
        self.supervisor.publish();
        let serving = self.supervisor.is_served();
        for waiter in batch {
            let (receipt, not_stored) = (Box::new(receipt.clone()), not_stored.clone());
            waiter.tell(Reply::Receipt { receipt, not_stored, serving });
        }
    }

    /// Requests that arrived while something else ran belong to the same reload.
    fn take_waiting_requests(&mut self) {
        let mut others = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Reload(waiter) => self.pending.push(waiter),
                stop @ Event::Stop(_) => others.push(stop),
            }
        }
        if let Some(Event::Stop(waiter)) = others.pop() {
            waiter.tell(Reply::Refused { message: "a reload is under way; stop again after it".into(), exit: 75 });
        }
    }

    async fn reason_to_wait(&mut self) -> Wait {
        let settings = &self.supervisor.config.reload;
        if self.last_reload.is_some_and(|last| last.elapsed() < settings.min_interval) {
            return Wait::Yes("waiting for min-interval".into());
        }
        if settings.max_draining > 0 && self.supervisor.draining.len() >= settings.max_draining {
            match settings.at_max_draining {
                AtMaxDraining::Wait => {
                    return Wait::Yes("waiting for a draining generation to end (max-draining)".into());
                }
                AtMaxDraining::EndOldest => {
                    let oldest = self.supervisor.draining[0].number;
                    self.end_early(oldest, "max-draining").await;
                }
            }
        }
        self.resync_wait().await
    }

    /// A generation that is still learning the stick tables would leave its successor with none.
    async fn resync_wait(&mut self) -> Wait {
        let waits = match self.resync().await {
            None | Some(Resync::NoLocalPeer | Resync::Finished) => false,
            Some(Resync::Untaught) => self.supervisor.predecessor_may_teach(TEACHING_BEGINS_WITHIN),
            Some(Resync::Running) => true,
        };
        if !waits {
            return Wait::No;
        }
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        if since.elapsed() < LONGEST_RESYNC {
            return Wait::Yes("waiting for the stick tables' resync (show peers)".into());
        }
        Wait::TooLong("the stick tables were lost: the old generation was still learning them (show peers)".into())
    }

    /// What the serving generation says of its peers; `None` when nothing serves or it does not answer.
    async fn resync(&self) -> Option<Resync> {
        let serving = self.supervisor.serving.as_ref()?;
        runtime_api::ask(&serving.socket, "show peers", TICK).await.ok().map(|answer| resync(&answer))
    }

    /// The serving generation has ended by itself: a new one gets its sockets from custody.
    async fn restart(&mut self) {
        let Some(down) = &self.supervisor.down else { return };
        let use_known_good = down.use_known_good();
        let ask = Ask { kind: Kind::Restart, asked: Instant::now(), coalesced: 0, use_known_good };
        let mut receipt = run_reload(&mut self.supervisor, ask, &|_| {}).await;
        if receipt.result != Outcome::Failed && !matches!(self.resync().await, None | Some(Resync::NoLocalPeer)) {
            receipt.notes.push("the stick tables were lost with the process that ended".into());
        }
        self.supervisor.store_receipt(&receipt);
        match (&mut self.supervisor.down, &self.start_failure) {
            (Some(down), _) => {
                down.failed(Instant::now());
                let sentence = sentence_of(&receipt);
                self.supervisor.warning = Some(format!("nothing serves: {sentence}"));
                self.start_failure = Some(sentence);
                self.supervisor.tick();
            }
            (None, Some(why)) if use_known_good => self.supervisor.warning = Some(runs_known_good(why)),
            (None, _) => {}
        }
        if receipt.result != Outcome::Failed {
            self.start_failure = None;
        }
        self.supervisor.publish();
    }

    async fn end_overdue(&mut self) {
        for number in self.supervisor.overdue() {
            self.end_early(number, "hard-stop-after").await;
        }
    }

    /// Ends a draining generation because the configuration asks for it; what that cuts is counted in a receipt.
    async fn end_early(&mut self, number: u64, setting: &str) {
        let Some(generation) = self.supervisor.draining.iter().find(|generation| generation.number == number) else {
            return;
        };
        let mut recorder = Recorder::begin(Kind::End, Instant::now(), 0, Some(generation.id()));
        recorder.receipt().lost.cut = generation.open_connections();
        recorder.note(format!("generation {number} was ended while it drained, as {setting} asks"));
        generation.process.signal(Signal::TERM);
        if tokio::time::timeout(TICK, generation.process.ended()).await.is_err() {
            generation.process.signal(Signal::KILL);
            generation.process.ended().await;
        }
        let receipt = recorder.finish(Ok(()));
        self.supervisor.store_receipt(&receipt);
        self.supervisor.reap_draining();
        self.supervisor.publish();
    }

    fn read_configuration(&mut self) {
        notify::reloading();
        match Config::load(self.config_path.as_deref()) {
            Ok(config) => self.take_configuration(config),
            Err(error) => {
                log::error!("{error}; the earlier configuration stays in force");
                self.supervisor.warning = Some(format!("reloader's configuration was not read: {error}"));
            }
        }
        self.supervisor.publish();
        notify::ready();
    }

    /// Paths that are in use keep their old value until the daemon is started again.
    fn take_configuration(&mut self, new: Config) {
        let old = &self.supervisor.config;
        let fixed = [
            ("control-socket", old.control_socket != new.control_socket),
            ("control-group", old.control_group != new.control_group),
            ("runtime-dir", old.runtime_dir != new.runtime_dir),
            ("state-dir", old.state_dir != new.state_dir),
        ];
        for (key, _) in fixed.iter().filter(|(_, changed)| *changed) {
            log::warn!("{key} changes only when the daemon is started again");
        }
        let config = Config {
            control_socket: old.control_socket.clone(),
            control_group: old.control_group.clone(),
            runtime_dir: old.runtime_dir.clone(),
            state_dir: old.state_dir.clone(),
            ..new
        };
        self.supervisor.config = config;
        log::info!("reloader's configuration was read again");
    }

    /// Tells the serving generation to drain, lets go of its listeners, and returns the process when connections
    /// keep it: it then outlives the daemon.
    async fn retire_serving(&mut self) -> Option<u32> {
        let generation = self.supervisor.serving.take()?;
        let process = generation.process.clone();
        process.signal(Signal::USR1);
        self.supervisor.custody.drop_all();
        self.supervisor.drain_abandoned(generation);
        log::info!("process {} was told to drain and end", process.pid());
        let drained = tokio::time::timeout(TICK, process.ended()).await.is_ok();
        self.supervisor.reap_draining();
        (!drained).then(|| process.pid())
    }

    fn refuse_pending(&mut self) {
        for waiter in std::mem::take(&mut self.pending) {
            waiter.tell(Reply::Refused { message: "the daemon is ending".into(), exit: 69 });
        }
    }
}

enum Wait {
    No,
    Yes(String),
    TooLong(String),
}

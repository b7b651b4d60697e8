//! The state of the daemon: the generations, custody, the broker, and what is told about them.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use tokio::sync::watch;

use super::Generation;
use super::crash::{self, Down};
use super::journal::Journal;
use super::known_good::KnownGood;
use super::notify;
use super::records::{Records, State};
use super::status::{Draining, ListenerStatus, Serving, Status};
use crate::config::{Config, Limit};
use crate::custody::Custody;
use crate::gate::syn_counter::SynCounter;
use crate::haproxy::broker::Broker;
use crate::haproxy::launch::Files;
use crate::haproxy::version::{Version, VersionCache, VersionError};
use crate::listener::Listener;
use crate::listener::Owned;
use crate::process::Handle;
use crate::reload::plan::{self, Planned, Present};
use crate::reload::receipt::{Kind, Receipt};
use crate::sys::Inheritance;

/// A warning stands in `status` from this many draining generations on.
const MANY_DRAINING: usize = 8;

/// Everything the main loop owns.
pub(crate) struct Supervisor {
    pub(crate) config: Config,
    pub(crate) inheritance: Inheritance,
    pub(crate) broker: Broker,
    pub(crate) custody: Custody,
    pub(crate) serving: Option<Generation>,
    pub(crate) draining: Vec<Generation>,
    /// A generation that is started and not proven.
    pub(crate) starting: Option<Generation>,
    pub(crate) known_good: KnownGood,
    /// Loaded once, when SYNs are to be counted; its load time would else be part of each reload.
    pub(crate) counter: Option<SynCounter>,
    /// The counter stands in the packet path.
    pub(crate) counts: bool,
    pub(crate) stopping: watch::Receiver<bool>,
    /// How long the last start took.
    pub(crate) last_start: Option<Duration>,
    pub(crate) down: Option<Down>,
    pub(crate) last_down: Option<Down>,
    pub(crate) next_number: u64,
    pub(crate) journal: Journal,
    pub(crate) versions: VersionCache,
    pub(crate) last_receipt: Option<Receipt>,
    pub(crate) warning: Option<String>,
    pub(crate) published: Arc<Mutex<Published>>,
}

/// What the control socket may read without the main loop.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) status: Status,
    /// The draining generations, to count their connections when asked.
    pub(crate) draining: Vec<DrainingNow>,
    /// The serving generation's stats socket.
    pub(crate) socket: Option<PathBuf>,
}

/// A draining generation as the control socket sees it.
#[derive(Debug, Clone)]
pub(crate) struct DrainingNow {
    pub(crate) number: u64,
    pub(crate) process: Handle,
    pub(crate) retired: Instant,
    pub(crate) listeners: Arc<Vec<Owned>>,
}

impl Supervisor {
    /// The next generation's number.
    pub(crate) fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// The files of generation `number`.
    pub(crate) fn files(&self, number: u64) -> Files {
        Files::of(&self.config.runtime_dir, number)
    }

    /// The HAProxy that the next generation will be.
    pub(crate) fn version(&mut self) -> Result<Version, VersionError> {
        self.versions.of(&self.config.haproxy.binary)
    }

    /// How long custody is kept with nothing serving.
    pub(crate) fn custody_max(&self) -> Duration {
        crash::custody_max(self.config.reload.custody_max, self.last_start)
    }

    /// When custody is dropped, while nothing serves and there is any.
    pub(crate) fn custody_ends(&self) -> Option<Instant> {
        let down = self.down.as_ref().filter(|_| !self.custody.is_empty())?;
        Some(down.custody_ends(self.custody_max()))
    }

    /// What the next reload would do.
    pub(crate) fn plan(&self, version: Version) -> Vec<Planned> {
        let owned = self.present_listeners();
        let in_custody: HashSet<u64> = self.custody.held().iter().map(|held| held.listener.inode).collect();
        let present: Vec<Present> = owned
            .iter()
            .map(|owned| Present {
                endpoint: owned.listener.endpoint.clone(),
                role: owned.role,
                inode: owned.listener.inode,
                in_custody: in_custody.contains(&owned.listener.inode),
            })
            .collect();
        plan::plan(&present, version, self.config.reload.strategy)
    }

    /// Whether a generation serves at this moment: the main loop hears of an end only when it is back from a reload.
    pub(crate) fn is_served(&self) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.process.try_ended().is_none())
    }

    /// The listeners that a new generation must take over: the serving one's, or what custody kept of a dead one.
    pub(crate) fn present_listeners(&self) -> Vec<Owned> {
        match &self.serving {
            Some(serving) => serving.listeners.clone(),
            None => self.custody_as_owned(),
        }
    }

    fn custody_as_owned(&self) -> Vec<Owned> {
        let held = self.custody.held().iter();
        held.map(|held| Owned { listener: held.listener.clone(), role: held.role }).collect()
    }

    /// Makes `new` the serving generation with its custody, and the one before a draining one.
    ///
    /// The record is written before the old one hears of it: a daemon killed in between leaves a successor that
    /// retires the old one again, never one that retires the new one.
    pub(crate) fn promote(&mut self, new: Generation, custody: Custody) -> Custody {
        let before = std::mem::replace(&mut self.custody, custody);
        self.starting = None;
        if let Some(mut old) = self.serving.replace(new) {
            old.retired = Some(Instant::now());
            self.draining.push(old);
        }
        self.last_down = self.down.take().or(self.last_down.take());
        self.warning = None;
        self.store_records();
        before
    }

    /// Puts a generation that failed among the draining ones.
    pub(crate) fn drain_abandoned(&mut self, mut generation: Generation) {
        generation.retired = Some(Instant::now());
        self.draining.push(generation);
        self.store_records();
    }

    /// Records the running generations.
    pub(crate) fn store_records(&self) {
        let mut generations = Vec::new();
        generations.extend(self.draining.iter().map(|generation| generation.record(State::Draining)));
        generations.extend(self.serving.iter().map(|generation| generation.record(State::Serving)));
        generations.extend(self.starting.iter().map(|generation| generation.record(State::Starting)));
        let records = Records { next: self.next_number, generations };
        if let Err(error) = records.store(&self.config.runtime_dir) {
            log::error!("cannot record the running generations in {}: {error}", self.config.runtime_dir.display());
        }
    }

    /// Stores a receipt; the reason when the journal did not take it.
    pub(crate) fn store_receipt(&mut self, receipt: &Receipt) -> Option<String> {
        let stored = self.journal.append(receipt);
        if receipt.kind != Kind::End {
            self.last_receipt = Some(receipt.clone());
        }
        stored.err().map(|error| {
            let message = format!("the receipt was not stored in {}: {error}", self.config.state_dir.display());
            log::error!("{message}");
            message
        })
    }

    /// The serving generation ended by itself.
    pub(crate) fn serving_ended(&mut self, ended: crate::process::Ended) {
        let Some(dead) = self.serving.take() else { return };
        log::error!("generation {} (process {}) {ended} while it served", dead.number, dead.process.pid());
        self.retire_orphans(&dead);
        dead.clean_up();
        self.down = Some(Down::begin(Instant::now(), dead.serving_since.elapsed(), self.last_down.as_ref()));
        self.warning = Some(format!("nothing serves: generation {} {ended}", dead.number));
        self.store_records();
    }

    /// Workers that outlived their master still accept; they drain like any retired generation.
    fn retire_orphans(&mut self, dead: &Generation) {
        for (pid, start_time) in &dead.leaves {
            if let Some(process) = Handle::adopt(*pid, *start_time) {
                process.signal(Signal::USR1);
                let number = dead.number;
                log::warn!("worker {pid} of generation {number} outlived its master: it was told to drain");
                self.draining.push(Generation {
                    number,
                    process,
                    leaves: Vec::new(),
                    socket: dead.socket.clone(),
                    files: None,
                    config: dead.config.clone(),
                    since: dead.since,
                    serving_since: dead.serving_since,
                    retired: Some(Instant::now()),
                    listeners: dead.listeners.clone(),
                    log: None,
                });
            }
        }
    }

    /// Removes draining generations that have ended.
    pub(crate) fn reap_draining(&mut self) {
        let (ended, draining) = std::mem::take(&mut self.draining)
            .into_iter()
            .partition::<Vec<_>, _>(|generation| generation.process.try_ended().is_some());
        self.draining = draining;
        for mut generation in ended {
            forward_log(&mut generation);
            log::info!("generation {} (process {}) has drained and ended", generation.number, generation.process.pid());
            generation.clean_up();
        }
        self.store_records();
    }

    /// What is due about once a second: custody follows the server, its log is forwarded, limits are kept.
    pub(crate) fn tick(&mut self) {
        notify::watchdog();
        self.follow_custody();
        let followed = self.serving.iter_mut().chain(self.draining.iter_mut());
        followed.for_each(forward_log);
        self.drop_custody_when_over();
    }

    fn follow_custody(&mut self) {
        let Some(serving) = &mut self.serving else { return };
        if serving.process.try_ended().is_some() {
            return;
        }
        let root = serving.process.pid();
        let closed = self.custody.release_closed(|| crate::process::tree(root));
        if closed.is_empty() {
            return;
        }
        for listener in &closed {
            log::warn!("the server closed {} by itself: it leaves custody", listener.endpoint);
        }
        serving.listeners.retain(|owned| !closed.contains(&owned.listener));
        self.publish();
    }

    fn drop_custody_when_over(&mut self) {
        let custody_max = self.custody_max();
        let Some(down) = &self.down else { return };
        if !self.custody.is_empty() && down.custody_is_over(Instant::now(), custody_max) {
            self.drop_custody();
            self.publish();
        }
    }

    /// True while a generation drains that was retired so lately that it may still begin to teach its stick tables.
    pub(crate) fn predecessor_may_teach(&self, within: Duration) -> bool {
        let lately = |generation: &Generation| generation.retired.is_some_and(|retired| retired.elapsed() < within);
        self.draining.iter().any(|generation| generation.process.try_ended().is_none() && lately(generation))
    }

    /// Nothing serves, so what comes to the ports would wait in vain.
    pub(crate) fn drop_custody(&mut self) {
        log::error!("nothing has served for too long: custody is dropped, so that clients fail over");
        self.custody.drop_all();
    }

    /// Draining generations that are past `hard-stop-after`.
    pub(crate) fn overdue(&self) -> Vec<u64> {
        let Limit::After(limit) = self.config.reload.hard_stop_after else { return Vec::new() };
        let overdue = |generation: &&Generation| generation.retired.is_some_and(|retired| retired.elapsed() >= limit);
        self.draining.iter().filter(overdue).map(|generation| generation.number).collect()
    }

    /// Tells the control socket and the service manager how things stand.
    pub(crate) fn publish(&mut self) {
        let plan = self.version().map(|version| self.plan(version)).unwrap_or_default();
        let status = Status {
            serving: self.serving.as_ref().map(serving_status),
            draining: Vec::new(),
            holds: Vec::new(),
            custody: self.custody.held().iter().map(|held| listener_status(&held.listener, held.role)).collect(),
            last_reload: self.last_receipt.clone(),
            warnings: self.warnings(),
            plan,
            connection_rate: None,
        };
        notify::status(&self.status_line());
        let draining = self.draining.iter().map(|generation| DrainingNow {
            number: generation.number,
            process: generation.process.clone(),
            retired: generation.retired.unwrap_or(generation.serving_since),
            listeners: Arc::new(generation.listeners.clone()),
        });
        let published = Published {
            status,
            draining: draining.collect(),
            socket: self.serving.as_ref().map(|serving| serving.socket.clone()),
        };
        *self.published.lock().expect("no panic under this lock") = published;
    }

    fn status_line(&self) -> String {
        match &self.serving {
            Some(serving) => format!(
                "generation {} serves {} listeners, {} draining",
                serving.number,
                serving.listeners.len(),
                self.draining.len()
            ),
            None => "nothing serves".into(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.warning.iter().cloned().collect();
        if self.draining.len() >= MANY_DRAINING {
            warnings.push(format!(
                "{} generations are draining: long connections keep them; see hard-stop-after and max-draining",
                self.draining.len()
            ));
        }
        if self.serving.is_none() && self.custody.is_empty() {
            warnings.push("nothing serves, and nothing is in custody: the ports are refused".into());
        }
        warnings
    }
}

pub(crate) fn forward_log(generation: &mut Generation) {
    let number = generation.number;
    for line in generation.new_log_lines() {
        log::info!(target: "haproxy", "[{number}] {line}");
    }
}

fn serving_status(generation: &Generation) -> Serving {
    Serving {
        generation: generation.number,
        pid: generation.process.pid(),
        config: generation.config.clone(),
        since: rfc3339(generation.since),
        listeners: generation.listeners.iter().map(|owned| listener_status(&owned.listener, owned.role)).collect(),
    }
}

fn listener_status(listener: &Listener, role: crate::listener::Role) -> ListenerStatus {
    ListenerStatus {
        address: listener.endpoint.to_string(),
        family: listener.endpoint.address.family(),
        role,
        inode: listener.inode,
    }
}

/// A time as receipts write it.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

impl DrainingNow {
    /// The entry for `status`, with the connections counted now.
    pub(crate) fn status(&self) -> Draining {
        let endpoints: Vec<_> = self.listeners.iter().map(|owned| owned.listener.endpoint.clone()).collect();
        Draining {
            generation: self.number,
            pid: self.process.pid(),
            age_s: self.retired.elapsed().as_secs(),
            connections: super::generation::open_connections(self.process.pid(), &endpoints),
        }
    }
}

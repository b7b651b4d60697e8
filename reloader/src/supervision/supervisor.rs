//! The state of the daemon: the generations, custody, the broker, and what is told about them.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::fd_store::FdStore;
use super::published::StatusBoard;
use super::records::{GenerationRecords, State};
use super::restart_policy::{self, Outage};
use super::shared_qdiscs::SharedQdiscs;
use super::{Companion, Generation, Journal, LastKnownGood};
use crate::config::{Config, Strategy};
use crate::fs::generation_files::GenerationFiles;
use crate::gate::hold::{Gates, HoldRegistry as Holds};
use crate::gate::steer::Steer;
use crate::gate::syn_counter::SynCounter;
use crate::model::listener::{Endpoint, Owned};
use crate::plan::{self, PlanInputs, Planned, Present};
use crate::process::Handle;
use crate::receipt::{GenerationId, Kind, Outcome, Receipt};
use crate::server::{Capabilities, Check, RetireRequest, Server};
use crate::sockets::custody::{Custody, KeptSocket};
use crate::supervision::steering::{PendingHandshakes, detach_now};
use crate::sys::Inheritance;

/// Listeners that were given up because nothing served for too long.
#[derive(Debug)]
pub(crate) struct RefusedListeners {
    /// Since then their ports are refused.
    pub(crate) since: Instant,
    pub(crate) listeners: Vec<Owned>,
}

/// Everything the main loop owns.
pub(crate) struct Supervisor {
    /// What the service is called.
    pub(crate) name: String,
    /// Where the files of its generations are.
    pub(crate) place: PathBuf,
    pub(crate) server: Server,
    /// With the strategy of this service.
    pub(crate) config: Config,
    pub(crate) inheritance: Inheritance,
    /// This program, of which a hold's guard is a command.
    pub(crate) program: PathBuf,
    /// What can hold SYNs here.
    pub(crate) gates: Gates,
    /// What does not work for lack of a capability, in sentences.
    pub(crate) missing_capabilities: Vec<String>,
    /// What stands on the devices where reloads are holds, of all services together.
    pub(crate) qdiscs: SharedQdiscs,
    /// Why the packet path may not be as it was before some hold.
    pub(crate) left_behind: Option<String>,
    pub(crate) custody: Custody,
    /// Which of it has O_NONBLOCK, as it is recorded.
    pub(crate) recorded_nonblocking: Vec<u64>,
    /// What of it the service manager keeps while no daemon runs.
    pub(crate) fd_store: FdStore,
    /// What an earlier daemon has left there.
    pub(crate) received: Vec<KeptSocket>,
    pub(crate) serving: Option<Generation>,
    pub(crate) draining: Vec<Generation>,
    /// Where HAProxy runs under its own unit: then a generation is a worker of its master.
    pub(crate) companion: Option<Companion>,
    /// A generation that is started and not proven.
    pub(crate) starting: Option<Generation>,
    pub(crate) known_good: LastKnownGood,
    /// Loaded once, when SYNs are to be counted; its load time would else be part of each reload.
    pub(crate) counter: Option<SynCounter>,
    /// Loaded once, when something is to be steered.
    pub(crate) steer: Option<Steer>,
    /// What the steering program still stands for.
    pub(crate) pending_handshakes: Option<PendingHandshakes>,
    /// A daemon that was killed has left the steering program on groups.
    pub(crate) inherits_steering: bool,
    /// The counter stands in the packet path.
    pub(crate) counts: bool,
    pub(crate) stopping: watch::Receiver<bool>,
    /// How long the last start took.
    pub(crate) last_start: Option<Duration>,
    /// Why one that runs could not be adopted.
    pub(crate) adoption_blocked: Option<String>,
    /// What nobody listens on any more.
    pub(crate) refused_listeners: Option<RefusedListeners>,
    /// The last start that failed was only too slow.
    pub(crate) start_timed_out: bool,
    /// For how many ticks the serving generation has had no descriptors.
    pub(crate) ending_ticks: u32,
    pub(crate) down: Option<Outage>,
    pub(crate) last_down: Option<Outage>,
    pub(crate) next_number: u64,
    pub(crate) journal: Journal,
    pub(crate) last_receipt: Option<Receipt>,
    pub(crate) warning: Option<String>,
    /// Why the check that comes before a reload refused the configuration, until one is carried out.
    pub(crate) refused: Option<String>,
    /// Where one of its generations has served.
    pub(crate) served: HashSet<Endpoint>,
    /// What a reload that is wanted waits for, where nothing says how long.
    pub(crate) waits: Option<&'static str>,
    pub(crate) board: StatusBoard,
}

impl Supervisor {
    /// The next generation's number.
    pub(crate) fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// The files of generation `number`.
    pub(crate) fn files(&self, number: u64) -> GenerationFiles {
        GenerationFiles::new(&self.place, number)
    }

    /// How long custody is kept with nothing serving.
    pub(crate) fn custody_max(&self) -> Duration {
        restart_policy::custody_max(self.config.reload.custody_max, self.last_start)
    }

    /// When custody is dropped, while nothing serves and there is any.
    pub(crate) fn custody_ends(&self) -> Option<Instant> {
        let down = self.down.as_ref().filter(|_| !self.custody.is_empty())?;
        Some(down.custody_ends(self.custody_max()))
    }

    /// What the next reload would do.
    pub(crate) fn plan(&self, server: &Capabilities) -> Vec<Planned> {
        let owned = self.present_listeners();
        let in_custody: HashSet<u64> = self.custody.kept().iter().map(|held| held.listener.inode).collect();
        let present: Vec<Present> = owned
            .iter()
            .map(|owned| Present {
                endpoint: owned.listener.endpoint.clone(),
                role: owned.role,
                inode: owned.listener.inode,
                in_custody: in_custody.contains(&owned.listener.inode),
            })
            .collect();
        if let Some(companion) = &self.companion {
            return companion.plan(&present, self);
        }
        let noreuseport = self.serving.as_ref().is_some_and(|serving| serving.noreuseport);
        let means = PlanInputs { server, strategy: self.config.reload.strategy, noreuseport, gates: &self.gates };
        plan::plan(&present, means)
    }

    /// Custody is of use only to a successor that can be given it; of others it would keep a port from being bound. A companion's
    /// successors bind for themselves: custody keeps for them what can be bound beside it and moved over.
    pub(crate) fn limit_custody(&mut self, custody: &mut Custody) {
        if self.companion.is_some() {
            custody.retain(|held| held.listener.endpoint.is_tcp_here() && held.shares_its_address());
            return;
        }
        custody.retain(|held| self.server.can_be_given(&held.listener.endpoint));
        if plan::keeps_tcp_back(self.config.reload.strategy) {
            custody.retain(|held| !held.listener.endpoint.is_tcp_here());
        }
    }

    /// How the configuration is checked.
    pub(crate) fn check(&self) -> Option<Check> {
        let environment = self.companion.as_ref().and_then(Companion::environment);
        self.server.check().map(|check| Check { environment, ..check })
    }

    /// Where every reload is a hold, what holds need stands on the devices between them.
    pub(crate) fn prepare_holds(&mut self) {
        let strategy = self.config.reload.strategy;
        let passes = self.server.capabilities().is_ok_and(|abilities| abilities.why_not_passed.is_none());
        let binds_anew = plan::keeps_tcp_back(strategy) || (strategy == Strategy::Auto && !passes);
        let moves = self.steer.as_ref().is_some_and(Steer::migrates);
        let held_beside = self.companion.is_some() && strategy == Strategy::Auto && !moves;
        let always = plan::holds_tcp(strategy) || (binds_anew && self.gates.steer.is_some()) || held_beside;
        let needed = self.gates.needs_persistent_qdiscs(strategy).filter(|_| always);
        self.qdiscs.need(&self.name, needed, &Holds::new(&self.config.runtime_dir));
    }

    /// What the next generation may be given: with a strategy that keeps TCP back, everything else.
    pub(crate) fn offer(&self) -> Custody {
        let mut custody = self.custody.clone();
        // With nobody serving there is nothing to bind anew beside.
        if plan::keeps_tcp_back(self.config.reload.strategy) && self.is_served() {
            custody.retain(|held| !held.listener.endpoint.is_tcp_here());
        }
        custody
    }

    /// The serving generation makes room for the next, which cannot be bound beside it: it is recorded as draining, and what
    /// the daemon has of its TCP sockets is closed. Returns its process and where its listeners were.
    pub(crate) fn vacate(&mut self, held_until: Option<Instant>) -> Option<(RetireRequest, Custody)> {
        let old = self.serving.take()?;
        detach_now(self);
        let ending = old.ending();
        // While SYNs are held nobody waits in vain: custody of the other sockets is kept as long.
        let since = held_until.unwrap_or_else(Instant::now);
        self.down = Some(Outage::begin(since, old.serving_since.elapsed(), self.last_down.as_ref()));
        self.warning = Some(format!("nothing serves: generation {} made room for the next", old.number));
        self.custody.retain(|held| !held.listener.endpoint.is_tcp_here());
        self.store_custody();
        let mut listened = self.custody.clone();
        listened.retain(|_| false);
        self.begin_draining(old);
        Some((ending, listened))
    }

    /// The generation that was to make room has not done so: it serves on.
    pub(crate) fn reinstate(&mut self, process: &Handle) {
        let Some(place) = self.draining.iter().position(|generation| generation.process.pid() == process.pid()) else {
            return;
        };
        let mut generation = self.draining.remove(place);
        generation.retired = None;
        self.serving = Some(generation);
        self.down = None;
        self.warning = None;
        self.record_or_log();
    }

    /// The generation that made room has no successor, neither from the configuration on disk nor from the last-known-good one:
    /// what is due then counts from now.
    pub(crate) fn note_failed_starts(&mut self) {
        let now = Instant::now();
        let mut down = Outage::begin(now, Duration::MAX, None);
        down.failed(now, self.start_timed_out);
        down.failed(now, self.start_timed_out);
        self.down = Some(down);
    }

    /// What of a generation's listeners is in nobody's hands now: without custody their ports are refused.
    pub(crate) fn note_refused_listeners(&mut self, listeners: &[Owned]) {
        let kept: HashSet<u64> = self.custody.kept().iter().map(|held| held.listener.inode).collect();
        let lost = listeners.iter().filter(|owned| !kept.contains(&owned.listener.inode));
        let listeners: Vec<Owned> = lost.cloned().collect();
        if !listeners.is_empty() {
            self.refused_listeners = Some(RefusedListeners { since: Instant::now(), listeners });
        }
    }

    /// Whether a generation serves at this moment: the main loop hears of an end only when it is back from a reload.
    pub(crate) fn is_served(&self) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.process.try_ended().is_none())
    }

    /// Whether clients of this service are served at this moment: a companion's worker may live and have let go of its listeners.
    pub(crate) fn serves(&self) -> bool {
        self.is_served() && !self.worker_has_let_go()
    }

    /// The listeners that a new generation must take over: the serving one's, what custody kept of a dead one, or what
    /// was given up since.
    pub(crate) fn present_listeners(&self) -> Vec<Owned> {
        if let Some(serving) = &self.serving {
            return serving.listeners.clone();
        }
        let unserved = self.refused_listeners.iter().flat_map(|unserved| unserved.listeners.iter().cloned());
        self.custody_as_owned().into_iter().chain(unserved).collect()
    }

    /// Wherever it serves, has served, or was to serve.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let draining = self.draining.iter().flat_map(|generation| &generation.listeners);
        let draining = draining.map(|owned| owned.listener.endpoint.clone());
        draining.chain(self.served.iter().cloned()).chain(self.server.endpoints()).collect()
    }

    pub(crate) fn custody_as_owned(&self) -> Vec<Owned> {
        let mut listed = HashSet::new();
        let held = self.custody.kept().iter().filter(|held| listed.insert(held.listener.inode));
        held.map(|held| Owned { listener: held.listener.clone(), role: held.role }).collect()
    }

    /// Records that the starting generation serves and the serving one drains, before either is so.
    ///
    /// A daemon that is killed from here on leaves a successor that retires the old one again. Without this record it
    /// would retire the new one, while the old one drains already: so the reload is given up when it cannot be written.
    pub(crate) async fn record_handover(&self) -> io::Result<()> {
        let mut records = self.records();
        for record in &mut records.generations {
            record.state = match record.state {
                State::Starting => State::Serving,
                _ => State::Draining,
            };
        }
        self.store_in_background(records).await
    }

    /// Records that a generation is starting. Its process asks the broker within a second or gives up, so a slow disk
    /// must not keep the loop from answering.
    pub(crate) async fn record_start(&self) {
        if let Err(error) = self.store_in_background(self.records()).await {
            log::error!("cannot record the generation that starts: {error}");
        }
    }

    async fn store_in_background(&self, records: GenerationRecords) -> io::Result<()> {
        let place = self.place.clone();
        let stored = tokio::task::spawn_blocking(move || records.store(&place)).await;
        stored.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Makes `new` the serving generation with its custody, and the one before a draining one. The custody before is
    /// returned: it may hold what the new one did not take.
    pub(crate) fn promote(&mut self, new: Generation, custody: Custody) -> Custody {
        detach_now(self);
        let before = std::mem::replace(&mut self.custody, custody);
        self.store_custody();
        self.starting = None;
        self.served.extend(new.listeners.iter().map(|owned| owned.listener.endpoint.clone()));
        if let Some(mut old) = self.serving.replace(new) {
            old.retired = Some(Instant::now());
            self.draining.push(old);
        }
        self.last_down = self.down.take().or(self.last_down.take());
        self.warning = None;
        self.refused_listeners = None;
        self.ending_ticks = 0;
        if self.record_or_log() {
            self.recorded_nonblocking = self.nonblocking();
        }
        before
    }

    /// The service manager keeps what is in custody. A companion's successors bind beside it: while no daemon looked after it, what only the
    /// store has would take their connections.
    pub(crate) fn store_custody(&mut self) {
        match &self.companion {
            None => self.fd_store.follow(&self.custody),
            Some(_) => self.fd_store.follow(&Custody::default()),
        }
    }

    /// Puts a generation among the draining ones. It is recorded so before it is told anything.
    pub(crate) fn begin_draining(&mut self, mut generation: Generation) {
        generation.retired = Some(Instant::now());
        self.draining.push(generation);
        self.record_or_log();
    }

    /// Records the running generations.
    fn store_records(&self) -> io::Result<()> {
        self.records().store(&self.place)
    }

    /// As [`Supervisor::store_records`], where nothing depends on it but the next daemon's knowledge. False where it failed.
    pub(crate) fn record_or_log(&self) -> bool {
        let stored = self.store_records();
        if let Err(error) = &stored {
            log::error!("cannot record the running generations in {}: {error}", self.place.display());
        }
        stored.is_ok()
    }

    fn records(&self) -> GenerationRecords {
        let mut generations = Vec::new();
        generations.extend(self.draining.iter().map(|generation| generation.record(State::Draining)));
        generations.extend(self.serving.iter().map(|generation| generation.record(State::Serving)));
        generations.extend(self.starting.iter().map(|generation| generation.record(State::Starting)));
        let last_start_ms = self.last_start.map(|time| time.as_millis() as u64);
        GenerationRecords {
            next: self.next_number,
            last_start_ms,
            companion: self.companion.is_some(),
            generations,
            nonblocking: self.nonblocking(),
        }
    }

    /// Which of the custody's sockets have O_NONBLOCK. Empty for HAProxy, all of whose listeners have it.
    pub(super) fn nonblocking(&self) -> Vec<u64> {
        if self.server.haproxy().is_some() { Vec::new() } else { self.custody.nonblocking() }
    }

    /// Stores a receipt; the reason when the journal did not take it.
    pub(crate) fn store_receipt(&mut self, receipt: &Receipt) -> Option<String> {
        log_receipt(receipt);
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
}

/// One line for each receipt, so that the log alone tells what happened.
fn log_receipt(receipt: &Receipt) {
    let generation = |id: Option<GenerationId>| id.map_or("none".into(), |id| id.generation.to_string());
    let what = format!(
        "{} {:?} {:?}: generation {} -> {}, {} listeners",
        receipt.service.as_deref().unwrap_or_default(),
        receipt.kind,
        receipt.result,
        generation(receipt.old),
        generation(receipt.new),
        receipt.listeners.len()
    )
    .to_lowercase();
    let said: String = receipt.server_log.iter().map(|line| format!("\n  {line}")).collect();
    match (&receipt.reason, receipt.result) {
        (Some(reason), Outcome::Failed) => log::error!("{what}: {reason}{said}"),
        (Some(reason), _) => log::warn!("{what}: {reason}"),
        (None, _) => log::info!("{what}"),
    }
}

//! From the process's start to the first generation that serves.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};

use super::active_clients::ActiveClients;
use super::control::{Control, ControlSocket};
use super::event_loop::EventLoop;
use super::first_start::begin_serving;
use super::runtime_dir::{RuntimeDir, SharedRuntimeDir};
use super::signals::{self, Signals};
use super::{DaemonError, events, setup};
use crate::config::{Config, HAPROXY, Mode, OnStop, Strategy};
use crate::gate::hold::{self, Gates, HoldRegistry as Holds};
use crate::gate::steer::{self, Steer};
use crate::gate::syn_counter::{self, SynCounter};
use crate::process;
use crate::server::Server;
use crate::sockets::custody::Custody;
use crate::supervision::fd_store::{self, FdStore, Room};
use crate::supervision::records::{GenerationRecord, GenerationRecords};
use crate::supervision::{Companion, Journal, LastKnownGood, SharedQdiscs, StatusBoard, Supervisor, notify};
use crate::sys::{Inheritance, raise_descriptor_limit, take_given};

/// Runs the daemon until it is told to end.
pub async fn run(config: Config, config_path: Option<PathBuf>, inheritance: Inheritance) -> Result<(), DaemonError> {
    let lacks = setup::check_privileges()?;
    let group = setup::control_group(&config)?;
    setup::directories(&config, group)?;
    let config = setup::with_plain_runtime_dir(config)?;
    let lock = setup::lock(&config.runtime_dir)?;
    raise_descriptor_limit().map_err(DaemonError::io("raising the limit of descriptors"))?;

    let Signals { stop, stopping, actions: told } = signals::catch(config.names().len())?;
    signals::reap_as_init()?;
    note_on_stop(&config);
    let mut control_socket = ControlSocket::listen(&config.control_socket, group)?;
    let gates = tokio::task::spawn_blocking(Gates::probe).await.unwrap_or_default();
    remove_stale_counter();
    let names = config.names();
    let asked_to_end = stopping.clone();
    let common = Common {
        config,
        config_path,
        inheritance,
        lacks,
        group,
        gates,
        stopping,
        board: StatusBoard::new(&names),
        standing: SharedQdiscs::default(),
    };
    let (senders, receivers) = events::channels(&names);
    let control = Control {
        group,
        name: common.config.control_group.as_str().into(),
        services: Arc::new(senders),
        board: common.board.clone(),
        conversations: ActiveClients::new(),
    };
    let conversations = control.conversations.clone();
    let mut supervisors = Vec::new();
    let (room, mut received) = (Room::from_environment(), take_given());
    for name in &names {
        let mut supervisor = common.supervisor(name)?;
        (supervisor.fd_store, supervisor.received) = FdStore::open(name, room.clone(), &mut received);
        prepare(&mut supervisor, supervisors.is_empty());
        supervisors.push(supervisor);
    }
    fd_store::forget(received);
    if let (Some(forgotten), Some(first)) = (forgotten(&common.config), supervisors.first_mut()) {
        log::warn!("{forgotten}");
        first.left_behind.get_or_insert(forgotten);
    }
    control_socket.serve(control.clone());
    let footing = SharedRuntimeDir::new(RuntimeDir::new(lock, control_socket, control));

    let (begun, beginnings) = mpsc::unbounded_channel();
    let services = supervisors.into_iter().zip(receivers).zip(told).map(|((mut supervisor, events), told)| {
        let (begun, footing, path) = (begun.clone(), footing.clone(), common.config_path.clone());
        async move {
            let _ = begun.send(begin_serving(&mut supervisor).await);
            EventLoop::new(supervisor, path, events, told, footing).run_until_stopped().await;
        }
    });
    let mut services = Box::pin(join_all(services));
    let ended = tokio::select! {
        error = none_serves(beginnings, names.len(), &common.board) => {
            let was_asked = *asked_to_end.borrow();
            if process::is_init() {
                // What could not be proven may have accepted connections.
                let _ = stop.send(true);
                (&mut services).await;
            }
            if was_asked { Ok(()) } else { Err(error) }
        }
        _ = &mut services => Ok(()),
    };
    if ended.is_ok() {
        notify::stopping();
        notify::status(&common.board.parting_line());
    }
    // Whoever waits for one of them hears of its end.
    drop(services);
    conversations.over().await;
    ended
}

/// As PID 1 it cannot leave its server serving.
fn note_on_stop(config: &Config) {
    if process::is_init() && config.on_stop == OnStop::Leave {
        log::warn!("on-stop = \"leave\" is not possible as PID 1, whose end is the end of all: it is \"retire\" here");
    }
}

/// Says that the daemon is ready once each service has begun, or ends with a reason where none serves.
async fn none_serves(mut beginnings: Beginnings, count: usize, board: &StatusBoard) -> DaemonError {
    let mut failures = Vec::new();
    for _ in 0..count {
        if let Some(Err(error)) = beginnings.recv().await {
            failures.push(error);
        }
    }
    // One that failed first may serve by now.
    let serves = board.read(|all| all.iter().any(|(_, published)| published.status.serving.is_some()));
    match failures.pop() {
        Some(error) if !serves => return error,
        _ => notify::ready(),
    }
    std::future::pending().await
}

type Beginnings = mpsc::UnboundedReceiver<Result<(), DaemonError>>;

/// What all services share.
struct Common {
    config: Config,
    config_path: Option<PathBuf>,
    inheritance: Inheritance,
    lacks: Vec<String>,
    group: u32,
    gates: Gates,
    stopping: watch::Receiver<bool>,
    board: StatusBoard,
    standing: SharedQdiscs,
}

impl Common {
    fn supervisor(&self, name: &str) -> Result<Supervisor, DaemonError> {
        let config = self.config.for_service(name);
        let place = config.place(name);
        let server = Server::new(&config, name).map_err(DaemonError::io("creating the broker's socket"))?;
        let server = server.ok_or_else(|| DaemonError::NothingServes(format!("there is no service `{name}`")))?;
        let journal = Journal::new(&config.state_dir, self.group);
        let haproxy = config.haproxy.as_ref().filter(|haproxy| haproxy.mode == Mode::Companion && name == HAPROXY);
        let companion = haproxy.cloned().map(Companion::new);
        Ok(Supervisor {
            name: name.to_owned(),
            place,
            server,
            last_receipt: journal.last_reload(name),
            known_good: LastKnownGood::open(&known_good_of(&config, name)),
            journal,
            config,
            inheritance: self.inheritance.clone(),
            // The same file as long as this process lives, though a package manager may replace its path.
            program: "/proc/self/exe".into(),
            gates: self.gates.clone(),
            missing_capabilities: self.lacks.clone(),
            qdiscs: self.standing.clone(),
            left_behind: None,
            custody: Custody::default(),
            fd_store: FdStore::default(),
            received: Vec::new(),
            serving: None,
            draining: Vec::new(),
            starting: None,
            companion,
            counter: None,
            steer: None,
            pending_handshakes: None,
            inherits_steering: false,
            counts: false,
            stopping: self.stopping.clone(),
            last_start: None,
            adoption_blocked: None,
            refused_listeners: None,
            recorded_nonblocking: Vec::new(),
            ending_ticks: 0,
            start_timed_out: false,
            down: None,
            last_down: None,
            next_number: 1,
            warning: None,
            refused: None,
            served: HashSet::new(),
            waits: None,
            board: self.board.clone(),
        })
    }
}

/// What the machine may have left of an earlier daemon is looked at by the `first` of all services.
fn prepare(supervisor: &mut Supervisor, first: bool) {
    if first {
        clean_up_holds(supervisor);
    }
    prepare_counter(supervisor);
    prepare_steering(supervisor);
    supervisor.prepare_holds();
}

/// Removes what dead holds left in the packet path.
pub(super) fn clean_up_holds(supervisor: &mut Supervisor) {
    supervisor.left_behind = None;
    match hold::clean_up(&Holds::new(&supervisor.config.runtime_dir)) {
        Ok(done) if done.removed == 0 && done.dead.is_empty() => {}
        Ok(done) => log::warn!(
            "cleaned up after {} holds that had lost holder and guard: {} filters, qdiscs and devices",
            done.dead.len(),
            done.removed
        ),
        Err(error) => {
            let sentence = format!(
                "what a dead hold may have left in the packet path was not removed: {error}; `reloader release` tries again"
            );
            log::error!("{sentence}");
            supervisor.left_behind = Some(sentence);
        }
    }
}

/// Removes the counter of a daemon that was killed.
fn remove_stale_counter() {
    match syn_counter::remove_stale() {
        Ok(0) => {}
        Ok(removed) => log::warn!("removed {removed} filters that an earlier daemon left in the packet path"),
        Err(error) => log::debug!("looking for filters of an earlier daemon: {error}"),
    }
}

/// Loads a counter where it is wanted.
fn prepare_counter(supervisor: &mut Supervisor) {
    if supervisor.config.reload.count_syns {
        supervisor.counter = SynCounter::load().inspect_err(|error| log::warn!("{error}")).ok();
    }
}

/// Looks for the steering program of a daemon that was killed, and loads it where every reload steers.
fn prepare_steering(supervisor: &mut Supervisor) {
    supervisor.inherits_steering = steer::is_left(&supervisor.place);
    if supervisor.config.reload.strategy == Strategy::Steer || supervisor.companion.is_some() {
        supervisor.steer = Steer::load().inspect_err(|error| log::warn!("{error}")).ok();
    }
}

/// HAProxy's copies are kept; of another server's configuration nothing is known, and there is nothing at this place.
fn known_good_of(config: &Config, name: &str) -> PathBuf {
    if name == HAPROXY { config.state_dir.clone() } else { config.state_dir.join("services").join(name) }
}

/// Services that an earlier daemon ran and that have no table any more.
fn forgotten(config: &Config) -> Option<String> {
    let places = std::fs::read_dir(config.runtime_dir.join("services")).ok()?.flatten();
    let unknown = places.filter(|place| !config.services.contains_key(&*place.file_name().to_string_lossy()));
    let lives = |record: &GenerationRecord| process::start_time(record.pid) == Some(record.start_time);
    let found = unknown.flat_map(|place| {
        let records = GenerationRecords::load(&place.path()).generations.into_iter().filter(lives);
        let name = place.file_name().to_string_lossy().into_owned();
        records.map(move |record| format!("{name} (process {})", record.pid)).collect::<Vec<_>>()
    });
    let found: Vec<String> = found.collect();
    let sentence = "not configured any more, and still running: give it its table back and reload it, or end it";
    (!found.is_empty()).then(|| format!("{}: {sentence}", found.join(", ")))
}

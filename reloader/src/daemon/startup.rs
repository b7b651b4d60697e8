//! Starts the daemon: from the process's start to the first generation that serves.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};

use super::active_clients::ActiveClients;
use super::control::{Control, ControlSocket};
use super::event_loop::EventLoop;
use super::events::{self, Event};
use super::first_start::begin_serving;
use super::runtime_dir::{RuntimeDir, SharedRuntimeDir};
use super::signals::{self, SignalAction, Signals};
use super::{DaemonError, setup};
use crate::config::{Config, OnStop, Strategy};
use crate::gate::hold::{self, Gates, HoldRegistry};
use crate::gate::syn_counter;
use crate::process::{self, BlockingLane, Handle, control_group, run_blocking};
use crate::server::Server;
use crate::supervision::fd_store::{self, FdStore, Room};
use crate::supervision::records::{GenerationRecord, GenerationRecords};
use crate::supervision::{
    Host, Journal, Notice, ProcessNotice, Receipts, Service, SharedQdiscs, SocketStore, StatusBoard, Supervisor, notify,
};
use crate::sys::{Inheritance, give_back_idle_memory, raise_descriptor_limit, take_passed_descriptors};

/// Runs the daemon until it is told to end.
///
/// # Errors
/// Where a privilege, a place or a lock is missing, and where nothing serves.
pub async fn run(config: Config, config_path: Option<PathBuf>, inheritance: Inheritance) -> Result<(), DaemonError> {
    let missing_capabilities = setup::check_privileges()?;
    let group = setup::control_group(&config)?;
    setup::directories(&config, group)?;
    let config = setup::with_plain_runtime_dir(config)?;
    let lock = setup::lock(&config.runtime_dir)?;
    raise_descriptor_limit().map_err(DaemonError::io("raising the limit of descriptors"))?;

    let names = config.names();
    let Signals { stop, stopping, actions } = signals::catch(names.len())?;
    signals::reap_as_init()?;
    note_on_stop(&config);
    let mut control_socket = ControlSocket::listen(&config.control_socket, group)?;
    // Without an answer no gate is used, and HAProxy is served all the same.
    let gates = tokio::task::spawn_blocking(Gates::probe).await.unwrap_or_default();
    remove_stale_counter();
    run_blocking(control_group::remove_left_behind).await;
    let common = Common {
        config,
        inheritance,
        missing_capabilities,
        group,
        gates,
        stopping: stopping.clone(),
        board: StatusBoard::new(&names),
        qdiscs: SharedQdiscs::default(),
    };
    let (senders, receivers) = events::channels(&names);
    let control = Control {
        group,
        name: common.config.control_group.as_str().into(),
        services: Arc::new(senders),
        board: common.board.clone(),
        active_clients: ActiveClients::new(),
    };
    let active_clients = control.active_clients.clone();
    let supervisors = common.supervisors(&names).await?;
    control_socket.serve(control.clone());
    let runtime_dir = SharedRuntimeDir::new(RuntimeDir::new(lock, control_socket, control));
    let loops = Loops { supervisors, receivers, actions, config_path, runtime_dir: runtime_dir.clone() };
    let ended = run_services(loops, &common.board, stop, stopping).await;
    active_clients.over().await;
    // The lock and the control socket stay until the last client has its answer.
    drop(runtime_dir);
    ended
}

/// What each service's loop is made of, in the order of the services.
struct Loops {
    supervisors: Vec<Supervisor>,
    receivers: Vec<mpsc::UnboundedReceiver<Event>>,
    actions: Vec<mpsc::UnboundedReceiver<SignalAction>>,
    config_path: Option<PathBuf>,
    runtime_dir: SharedRuntimeDir,
}

/// Runs the loops of all services side by side, until all have ended or none could begin.
async fn run_services(
    loops: Loops,
    board: &StatusBoard,
    stop: watch::Sender<bool>,
    stopping: watch::Receiver<bool>,
) -> Result<(), DaemonError> {
    let Loops { supervisors, receivers, actions, config_path, runtime_dir } = loops;
    let count = supervisors.len();
    let (begun, first_starts) = mpsc::unbounded_channel();
    let services = supervisors.into_iter().zip(receivers).zip(actions).map(|((mut supervisor, events), actions)| {
        let (begun, runtime_dir, path) = (begun.clone(), runtime_dir.clone(), config_path.clone());
        async move {
            let _ = begun.send(begin_serving(&mut supervisor).await);
            tokio::task::spawn_blocking(give_back_idle_memory);
            EventLoop::new(supervisor, path, events, actions, runtime_dir).run_until_stopped().await;
        }
    });
    let mut services = Box::pin(join_all(services));
    let ended = tokio::select! {
        error = none_serves(first_starts, count, board) => {
            let was_asked = *stopping.borrow();
            if process::is_init() {
                // A generation that could not be proven may have accepted connections.
                let _ = stop.send(true);
                (&mut services).await;
            }
            if was_asked { Ok(()) } else { Err(error) }
        }
        _ = &mut services => Ok(()),
    };
    if ended.is_ok() {
        notify::stopping();
        notify::status(&board.parting_line());
    }
    // This closes the connection of each client that waits for an answer of a loop.
    drop(services);
    ended
}

/// Warns that the daemon, as PID 1, cannot leave its server serving.
fn note_on_stop(config: &Config) {
    if process::is_init() && config.on_stop == OnStop::Leave {
        log::warn!("on-stop = \"leave\" is not possible as PID 1, whose end is the end of all: it is \"retire\" here");
    }
}

/// Says that the daemon is ready once each service has begun, or ends with a reason where none serves.
async fn none_serves(mut first_starts: FirstStarts, count: usize, board: &StatusBoard) -> DaemonError {
    let mut failures = Vec::new();
    for _ in 0..count {
        if let Some(Err(error)) = first_starts.recv().await {
            failures.push(error);
        }
    }
    // A service whose first start failed may serve by now.
    let serves = board.read(|all| all.iter().any(|(_, published)| published.status.serving.is_some()));
    match failures.pop() {
        Some(error) if !serves => return error,
        _ => notify::ready(),
    }
    std::future::pending().await
}

type FirstStarts = mpsc::UnboundedReceiver<Result<(), DaemonError>>;

/// What all services share.
struct Common {
    config: Config,
    inheritance: Inheritance,
    missing_capabilities: Vec<String>,
    group: u32,
    gates: Gates,
    stopping: watch::Receiver<bool>,
    board: StatusBoard,
    qdiscs: SharedQdiscs,
}

impl Common {
    /// One for each service. What the machine may have left of an earlier daemon is looked at by the first.
    async fn supervisors(&self, names: &[String]) -> Result<Vec<Supervisor>, DaemonError> {
        let mut supervisors = Vec::new();
        let (room, mut received) = (Room::from_environment(), take_passed_descriptors());
        for name in names {
            let (fd_store, sockets) = FdStore::open(name, room.clone(), &mut received);
            let mut supervisor = self.supervisor(name, SocketStore::new(fd_store, sockets))?;
            if supervisors.is_empty() {
                clean_up_holds(&mut supervisor).await;
            }
            prepare(&mut supervisor).await;
            supervisors.push(supervisor);
        }
        fd_store::forget(received);
        if let (Some(forgotten), Some(first)) = (forgotten(&self.config), supervisors.first_mut()) {
            log::warn!("{}", forgotten.sentence());
            first.warn_of_processes(Notice::ForgottenServices, Some(forgotten));
        }
        Ok(supervisors)
    }

    fn supervisor(&self, name: &str, sockets: SocketStore) -> Result<Supervisor, DaemonError> {
        let config = self.config.for_service(name);
        let server = Server::new(&config, name).map_err(DaemonError::io("creating the broker's socket"))?;
        let server = server.ok_or_else(|| DaemonError::NothingServes(format!("there is no service `{name}`")))?;
        let journal = Journal::new(&config.state_dir, self.group);
        let receipts = Receipts::new(journal, config.state_dir.clone(), name);
        let host = Host::new(
            self.gates.clone(),
            self.missing_capabilities.clone(),
            self.inheritance.clone(),
            self.qdiscs.clone(),
        );
        let service = Service::new(name, config, server);
        Ok(Supervisor::new(service, host, sockets, receipts, (self.board.clone(), self.stopping.clone())))
    }
}

/// What a service needs before its first generation starts.
async fn prepare(supervisor: &mut Supervisor) {
    supervisor.prepare_counter().await;
    // The steering program of a daemon that was killed is looked for, and loaded where every reload steers.
    supervisor.note_steering_left_behind();
    let strategy = supervisor.config().reload.strategy;
    if strategy == Strategy::Steer || !supervisor.server().owns_lifecycle() {
        let loaded = supervisor.load_steering().await;
        loaded.inspect_err(|error| log::warn!("{}: {error}", supervisor.name())).ok();
    }
}

/// Removes what dead holds left in the packet path.
pub(super) async fn clean_up_holds(supervisor: &mut Supervisor) {
    supervisor.clear_warning(Notice::HoldResidue);
    let registry = HoldRegistry::new(&supervisor.config().runtime_dir);
    // Another process may keep the registry's lock.
    let clean_up = move || hold::clean_up(&registry).map_err(std::io::Error::other);
    let heartbeat = supervisor.heartbeat();
    match heartbeat.during(BlockingLane::default().run("cleaning up after dead holds", clean_up)).await {
        Ok(done) if done.removed == 0 && done.dead.is_empty() => {}
        Ok(done) => log::warn!(
            "cleaned up after {} holds whose holder and guard had died: {} filters, qdiscs and devices",
            done.dead.len(),
            done.removed
        ),
        Err(error) => {
            let sentence = format!(
                "what a dead hold may have left in the packet path was not removed: {error}; `reloader release` tries again"
            );
            log::error!("{sentence}");
            supervisor.warn(Notice::HoldResidue, sentence);
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

/// Services that an earlier daemon ran and that the configuration does not have any more.
pub(super) fn forgotten(config: &Config) -> Option<ProcessNotice> {
    let places = std::fs::read_dir(config.runtime_dir.join("services")).ok()?.flatten();
    let unknown = places.filter(|place| !config.services.contains_key(&*place.file_name().to_string_lossy()));
    let processes = unknown.flat_map(|place| {
        let name = place.file_name().to_string_lossy().into_owned();
        let living = move |record: GenerationRecord| {
            let process = Handle::adopt(record.pid, record.start_time)?;
            Some((process, format!("{name} (process {})", record.pid)))
        };
        GenerationRecords::load(&place.path()).generations.into_iter().filter_map(living)
    });
    let text =
        "not configured any more, and still running: give it its table back and start the daemon again, or end it";
    Some(ProcessNotice { processes: processes.collect(), text: text.into() })
        .filter(|found| !found.processes.is_empty())
}

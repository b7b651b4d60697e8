//! Adopts what serves already when the daemon starts.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::DaemonError;
use super::socket_flags;
use super::unix_paths;
use super::unrecorded::with_unrecorded;
use crate::fs::generation_files::GenerationFiles;
use crate::haproxy::inspect::stats_socket_inode;
use crate::haproxy::launch::label;
use crate::haproxy::master::root_of;
use crate::haproxy::{runtime_api, scan};
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::listener::{Address, Owned};
use crate::process::{self, Ended, Handle, ProcessScope, output_within};
use crate::receipt::{Kind, Receipt, Recorder};
use crate::reload::protection::reserved::free_left_behind;
use crate::reload::verdict::verdicts;
use crate::server::Server;
use crate::sockets::custody::KeptSocket;
use crate::supervision::records::{GenerationRecord, GenerationRecords, State};
use crate::supervision::{Generation, LogTail, Supervisor};

/// How long a HAProxy, or systemd, may take to answer the daemon that starts.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Finds what runs already. Returns the receipt of the adoption, or `None` when nothing serves.
pub(super) async fn adopt(supervisor: &mut Supervisor) -> Result<Option<Receipt>, DaemonError> {
    let mut records = GenerationRecords::load(supervisor.place());
    let nonblocking = std::mem::take(&mut records.nonblocking);
    if records.companion {
        // The recorded processes are workers of a master that the daemon did not start. A worker that serves is found without the records.
        records.generations.clear();
    }
    supervisor.continue_from(&records);
    let mut serving = own_generations(supervisor, records).await?;
    if serving.is_none() {
        serving = foreign_haproxy(supervisor).await?;
    }
    match serving {
        Some(generation) => take_over(supervisor, generation, nonblocking).await.map(Some),
        None => Ok(None),
    }
}

/// Follows what an earlier daemon of this runtime-dir started, and returns the generation that serves.
async fn own_generations(
    supervisor: &mut Supervisor,
    records: GenerationRecords,
) -> Result<Option<Generation>, DaemonError> {
    // The kernel is asked before anything is signalled: without its answer no process can be told from another.
    let machine = sock_diag::listeners().map_err(|error| DaemonError::CannotAdopt(error.to_string()))?;
    let (mut found, mut ended) = (Vec::new(), Vec::new());
    for record in with_unrecorded(supervisor, records.generations) {
        supervisor.count_from(supervisor.generations().next_number().max(record.number + 1));
        match Handle::adopt(record.pid, record.start_time) {
            Some(process) => found.push((record, process)),
            None => ended.push(record),
        }
    }
    for record in ended {
        // A living process with the same number keeps its files.
        let is_gone = found.iter().all(|(living, _): &(GenerationRecord, _)| living.number != record.number);
        if is_gone {
            supervisor.service().files(record.number).remove();
        }
        let lives_on = follow_outlived(supervisor, &record).await;
        let has_ended = is_gone && !lives_on && record.state != State::Starting;
        if let Some(receipt) = has_ended.then(|| supervisor.unseen_end(&record)).flatten() {
            supervisor.store_receipt(&receipt).await;
        }
    }
    let serving = choose_serving(supervisor.server(), &found, &machine).await;
    if let Some((_, pid)) = serving {
        let scope = supervisor.server().process_scope();
        let others = found.iter().map(|(_, process)| process.pid()).filter(|other| *other != pid);
        let others: Vec<u32> = others.flat_map(|other| scope.processes(other)).collect();
        let [serving, others] = [scope.processes(pid), others].map(|processes| process::sockets_of(&processes));
        unix_paths::give_back(serving, others, machine.clone(), supervisor.config().reload.drain_timeout).await;
    }
    let mut chosen = None;
    let mut with_files = HashSet::new();
    for (record, process) in found {
        let is_serving = Some((record.number, record.pid)) == serving;
        let mut generation = followed(supervisor, &record, process);
        if !with_files.insert(record.number) {
            (generation.files, generation.log) = (None, None);
        }
        if is_serving {
            chosen = Some(generation);
            continue;
        }
        // A generation whose daemon was killed before it could ask is asked here for the first time.
        let was_told = record.state == State::Draining && !generation.listens_somewhere(&machine);
        if !was_told || supervisor.server().may_be_asked_twice() {
            supervisor.server().retire(&generation.retire_request());
        }
        generation.retired.get_or_insert_with(Instant::now);
        supervisor.follow_draining(generation);
    }
    Ok(chosen)
}

/// Follows the processes of a service's generation that still have a listener although its first process ended while no daemon ran. The next
/// generation is given their sockets. Returns whether there are any.
async fn follow_outlived(supervisor: &mut Supervisor, record: &GenerationRecord) -> bool {
    if supervisor.server().process_scope() != ProcessScope::All {
        return false;
    }
    let mut lives_on = false;
    for (pid, start_time) in process::session_members(record.pid) {
        let Some(process) = Handle::adopt(pid, start_time) else { continue };
        let inspected = supervisor.inspect(&process, &record.socket).await;
        let Ok(mut inspection) = inspected else { continue };
        if inspection.owned.is_empty() {
            continue;
        }
        log::warn!("process {pid} of generation {} outlived its master", record.number);
        inspection.custody.retain(|kept| supervisor.server().can_be_given(&kept.listener.endpoint));
        supervisor.complete_custody(inspection.custody.kept(), &inspection.sockets);
        let mut generation = followed(supervisor, record, process);
        (generation.listeners, generation.awaits_retirement) = (inspection.owned, true);
        (generation.files, generation.log, generation.retired) = (None, None, Some(Instant::now()));
        supervisor.follow_draining(generation);
        lives_on = true;
    }
    supervisor.ask_orphans();
    lives_on
}

/// The recorded serving generation. Where that has ended, or does not listen any more, the newest started one that answers.
async fn choose_serving(
    server: &Server,
    found: &[(GenerationRecord, Handle)],
    machine: &[ListenSocket],
) -> Option<(u64, u32)> {
    let listens = |record: &GenerationRecord| {
        let sockets = process::sockets_of(&server.process_scope().processes(record.pid));
        server.sentinel(&record.socket, machine, &sockets).is_some()
    };
    let in_state = |state| found.iter().map(|(record, _)| record).filter(move |record| record.state == state);
    if let Some(record) = in_state(State::Serving).find(|record| listens(record)) {
        return Some((record.number, record.pid));
    }
    let mut started: Vec<_> = in_state(State::Starting).filter(|record| listens(record)).collect();
    started.sort_by_key(|record| std::cmp::Reverse(record.number));
    for record in started {
        if server.serves_already(record.pid, &record.socket, ANSWER_TIMEOUT).await {
            return Some((record.number, record.pid));
        }
    }
    None
}

fn followed(supervisor: &Supervisor, record: &GenerationRecord, process: Handle) -> Generation {
    let files = supervisor.service().files(record.number);
    let own = files.socket == record.socket;
    let mut generation = Generation::started(
        record.number,
        process,
        supervisor.server().process_scope(),
        files.clone(),
        record.config.clone(),
    );
    generation.has_workers = record.has_workers;
    generation.noreuseport = record.noreuseport;
    generation.binds_as = record.binds_as;
    generation.drain_times = record.drain_times();
    generation.stop = record.stop.clone().or_else(|| supervisor.server().stop());
    generation.since = record.since();
    generation.retired = record.retired_at();
    generation.end_is_recorded = record.end_is_recorded;
    generation.socket = record.socket.clone();
    generation.log = own.then(|| LogTail::new(&files.log, true));
    generation.files = own.then_some(files);
    generation
}

/// A HAProxy that another supervisor started, found through a stats socket of the configuration.
async fn foreign_haproxy(supervisor: &mut Supervisor) -> Result<Option<Generation>, DaemonError> {
    let Some(files) = supervisor.server().adoptable_haproxy().map(|haproxy| haproxy.config.clone()) else {
        return Ok(None);
    };
    let sources = scan::read(&files).unwrap_or_default();
    let machine = sock_diag::listeners().map_err(|error| DaemonError::CannotAdopt(error.to_string()))?;
    let facts = scan::facts(&sources);
    for socket in facts.stats_sockets {
        if is_kept_of_the_dead(&socket, supervisor.sockets().received()) {
            continue;
        }
        let Ok(info) = runtime_api::info(&socket, ANSWER_TIMEOUT).await else { continue };
        let root = root_of(info.pid);
        if supervisor.generations().draining().iter().any(|draining| draining.process.pid() == root) {
            continue;
        }
        let sockets = process::sockets_of(&process::family(root));
        if stats_socket_inode(&socket, &machine, &sockets).is_none() {
            log::warn!(
                "{} answers as process {}, but no such process listens there (another pid namespace?): not adopted",
                socket.display(),
                info.pid
            );
            continue;
        }
        refuse_if_restarted_by_systemd(root).await?;
        let start_time = process::start_time(root).unwrap_or(0);
        let Some(process) = Handle::adopt(root, start_time) else { continue };
        let number = supervisor.take_number();
        log::info!("HAProxy {} (process {root}) already serves; found at {}", info.version, socket.display());
        let mut generation = adopted(number, process, socket, &files);
        generation.noreuseport = facts.noreuseport;
        generation.drain_times = facts.drain_times;
        supervisor.forget_configuration();
        return Ok(Some(generation));
    }
    Ok(None)
}

/// True for a socket that only this process and the service manager, its parent, have: it takes connections that no process answers.
fn is_kept_of_the_dead(path: &Path, received: &[KeptSocket]) -> bool {
    let Some(held) = received.iter().find(|held| held.listener.endpoint.address == Address::Unix(path.into())) else {
        return false;
    };
    let own = std::process::id();
    let keepers = [Some(own), process::parent(own)];
    let holders = process::holders_of(&HashSet::from([held.listener.inode]));
    holders.into_values().flatten().all(|pid| keepers.contains(&Some(pid)))
}

fn adopted(number: u64, process: Handle, socket: PathBuf, config: &[PathBuf]) -> Generation {
    let files = GenerationFiles { overlay: PathBuf::new(), socket, log: PathBuf::new() };
    let mut generation = Generation::started(number, process, ProcessScope::SameProgram, files, label(config));
    generation.files = None;
    generation.log = None;
    generation
}

/// systemd starts a service again that ends; two supervisors of one server would fight.
async fn refuse_if_restarted_by_systemd(pid: u32) -> Result<(), DaemonError> {
    let own = units(std::process::id());
    let Some(unit) = units(pid).into_iter().find(|unit| !own.contains(unit)) else { return Ok(()) };
    // reloader ends it by a clean exit, after which the other settings do not start it again (systemd.service(5)).
    let verb = match restart_setting(&unit).await.as_deref() {
        Some("always" | "on-success") => "would",
        Some(_) => return Ok(()),
        // systemd did not say.
        None => "might",
    };
    Err(DaemonError::CannotAdopt(format!(
        "HAProxy (process {pid}) belongs to the systemd unit {unit}, which {verb} start it again when reloader retires it; \
         hand the unit over by `reloader takeover {unit}`, or set Restart=no for it in a drop-in (or stop it), then start reloader"
    )))
}

/// The services that a process belongs to, from its control groups.
fn units(pid: u32) -> Vec<String> {
    let paths = process::control_groups(pid);
    let mut units: Vec<String> = paths
        .iter()
        .flat_map(|path| path.split('/'))
        .filter(|part| part.ends_with(".service"))
        .map(str::to_owned)
        .collect();
    units.dedup();
    units
}

/// The value of a unit's Restart= setting, from systemd. `None` where systemd does not run or does not answer.
async fn restart_setting(unit: &str) -> Option<String> {
    let mut command = std::process::Command::new("systemctl");
    command.args(["show", "--property=Restart", "--value", unit]);
    let (ended, output) = output_within(&mut command, ANSWER_TIMEOUT).await.ok()?;
    let value = String::from_utf8_lossy(&output).trim().to_owned();
    (ended == Ended::Exited(0) && !value.is_empty()).then_some(value)
}

async fn take_over(
    supervisor: &mut Supervisor,
    mut generation: Generation,
    nonblocking: Vec<u64>,
) -> Result<Receipt, DaemonError> {
    let mut recorder = Recorder::begin(Some(supervisor.name()), Kind::Adopt, Instant::now(), 0, Some(generation.id()));
    // A server that hangs because the flag is missing would not answer.
    let given_back = socket_flags::give_back(supervisor.server(), &generation, nonblocking).await;
    given_back.into_iter().for_each(|note| recorder.note(note));
    let inspected = supervisor.inspect(&generation.process, &generation.socket).await;
    let mut inspection = inspected.map_err(|error| DaemonError::CannotAdopt(error.to_string()))?;
    inspection.doubt.iter().chain(&inspection.notes).for_each(|note| recorder.note(note));
    recorder.phase(|phases| &mut phases.confirm);

    let unreachable = supervisor.unreachable_now(&inspection).await;
    let owned: Vec<Owned> = inspection.owned;
    recorder.receipt().new = Some(generation.id());
    recorder.receipt().listeners =
        verdicts(&owned, &owned, &unreachable, &HashSet::new()).into_iter().map(|verdict| verdict.receipt).collect();
    // Without this list, draining generations are searched only for the listeners of the serving generation.
    let machine = sock_diag::tcp_listeners().unwrap_or_default();
    supervisor.update_draining(|draining| {
        let sockets = process::sockets_of(&draining.processes());
        draining.note_listeners(&owned, &machine, &sockets);
        draining.note_worker_processes(&sockets);
    });
    generation.listeners = owned;
    generation.sentinel = inspection.sentinel;
    generation.note_worker_processes(&inspection.sockets);
    let received = supervisor.take_received();
    inspection.custody.complete_from(&received, &inspection.sockets);
    inspection.custody.retain(|kept| supervisor.server().can_be_given(&kept.listener.endpoint));
    supervisor.promote(generation, inspection.custody);
    free_left_behind(supervisor);
    Ok(recorder.finish(Ok(())))
}

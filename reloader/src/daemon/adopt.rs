//! Adoption: a daemon that starts beside a running HAProxy takes it under its care.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;

use super::DaemonError;
use crate::haproxy::inspect::inspect;
use crate::haproxy::launch::{Files, number_of};
use crate::haproxy::{runtime_api, scan};
use crate::listener::Owned;
use crate::process::{self, Handle};
use crate::reload::confirm::verdicts;
use crate::reload::receipt::{Kind, Receipt};
use crate::reload::recorder::Recorder;
use crate::supervision::records::{Record, Records, State};
use crate::supervision::{Generation, LogTail, Supervisor};

/// How long a HAProxy may take to answer the daemon that starts.
const PATIENCE: Duration = Duration::from_secs(5);

/// Finds what runs already. Returns the receipt of the adoption, or `None` when nothing serves.
pub(super) async fn adopt(supervisor: &mut Supervisor) -> Result<Option<Receipt>, DaemonError> {
    let records = Records::load(&supervisor.config.runtime_dir);
    supervisor.next_number = records.next.max(1);
    let mut serving = own_generations(supervisor, records).await;
    if serving.is_none() {
        serving = foreign(supervisor).await?;
    }
    match serving {
        Some(generation) => take_over(supervisor, generation).await.map(Some),
        None => Ok(None),
    }
}

/// Follows what an earlier daemon of this runtime-dir started, and returns the generation that serves.
async fn own_generations(supervisor: &mut Supervisor, records: Records) -> Option<Generation> {
    let mut found: Vec<(Record, Handle)> = Vec::new();
    for record in with_unrecorded(&supervisor.config.runtime_dir, records) {
        supervisor.next_number = supervisor.next_number.max(record.number + 1);
        match Handle::adopt(record.pid, record.start_time) {
            Some(process) => found.push((record, process)),
            None => Files::of(&supervisor.config.runtime_dir, record.number).remove(),
        }
    }
    let serving = choose_serving(&found).await;
    let mut chosen = None;
    for (record, process) in found {
        let is_serving = Some(record.number) == serving;
        let mut generation = followed(&supervisor.config.runtime_dir, &record, process);
        if is_serving {
            chosen = Some(generation);
            continue;
        }
        // Again for one that was told already, and for the first time for one whose daemon was killed before.
        generation.process.signal(Signal::USR1);
        generation.retired = Some(Instant::now());
        supervisor.draining.push(generation);
    }
    chosen
}

/// The recorded serving generation; when it has ended, the newest started one that answers.
async fn choose_serving(found: &[(Record, Handle)]) -> Option<u64> {
    if let Some((record, _)) = found.iter().find(|(record, _)| record.state == State::Serving) {
        return Some(record.number);
    }
    let mut started: Vec<_> = found.iter().filter(|(record, _)| record.state == State::Starting).collect();
    started.sort_by_key(|(record, _)| std::cmp::Reverse(record.number));
    for (record, _) in started {
        if runtime_api::info(&record.socket, PATIENCE).await.is_ok() {
            return Some(record.number);
        }
    }
    None
}

/// Adds processes that carry a configuration file of this runtime-dir on their command line but were not recorded:
/// their daemon was killed between the start and the record.
fn with_unrecorded(runtime_dir: &Path, records: Records) -> Vec<Record> {
    let mut all = records.generations;
    for pid in process::pids() {
        let words = process::command_line(pid).unwrap_or_default();
        let overlay = words.iter().find_map(|word| number_of(runtime_dir, Path::new(word), "cfg"));
        let Some((number, start_time)) = overlay.zip(process::start_time(pid)) else { continue };
        let is_known = all.iter().any(|record| record.number == number);
        let is_worker = process::parent(pid).and_then(process::command_line).is_some_and(|parent| parent == words);
        if is_known || is_worker {
            continue;
        }
        let socket = Files::of(runtime_dir, number).socket;
        let config = "found running".into();
        all.push(Record { number, pid, start_time, state: State::Starting, socket, config, since: 0 });
    }
    all
}

fn followed(runtime_dir: &Path, record: &Record, process: Handle) -> Generation {
    let files = Files::of(runtime_dir, record.number);
    let own = files.socket == record.socket;
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(record.since);
    let mut generation = Generation::started(record.number, process, files.clone(), record.config.clone());
    generation.since = since;
    generation.socket = record.socket.clone();
    generation.log = own.then(|| LogTail::new(&files.log, true));
    generation.files = own.then_some(files);
    generation
}

/// A HAProxy that another supervisor started, found through a stats socket of the configuration.
async fn foreign(supervisor: &mut Supervisor) -> Result<Option<Generation>, DaemonError> {
    let sources = scan::read(&supervisor.config.haproxy.config).unwrap_or_default();
    for socket in scan::facts(&sources).stats_sockets {
        let Ok(info) = runtime_api::info(&socket, PATIENCE).await else { continue };
        let root = root_of(info.pid);
        refuse_if_restarted_by_systemd(root)?;
        let start_time = process::start_time(root).unwrap_or(0);
        let Some(process) = Handle::adopt(root, start_time) else { continue };
        let number = supervisor.take_number();
        log::info!("HAProxy {} (process {root}) already serves; found at {}", info.version, socket.display());
        return Ok(Some(adopted(number, process, socket, &supervisor.config.haproxy.config)));
    }
    Ok(None)
}

fn adopted(number: u64, process: Handle, socket: PathBuf, config: &[PathBuf]) -> Generation {
    let label = config.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
    let files = Files { overlay: PathBuf::new(), socket, log: PathBuf::new() };
    let mut generation = Generation::started(number, process, files, label);
    generation.files = None;
    generation.log = None;
    generation
}

/// The master of a worker, or the process itself: the topmost ancestor that runs the same program.
fn root_of(worker: u32) -> u32 {
    let program = process::executable(worker);
    let mut root = worker;
    while let Some(parent) = process::parent(root).filter(|parent| process::executable(*parent) == program) {
        root = parent;
    }
    root
}

/// systemd starts a service again that ends; two supervisors of one server would fight.
fn refuse_if_restarted_by_systemd(pid: u32) -> Result<(), DaemonError> {
    let own = units(std::process::id());
    let Some(unit) = units(pid).into_iter().find(|unit| !own.contains(unit)) else { return Ok(()) };
    if restart_setting(&unit).as_deref() == Some("no") {
        return Ok(());
    }
    Err(DaemonError::CannotAdopt(format!(
        "HAProxy (process {pid}) belongs to the systemd unit {unit}, which would start it again when reloader retires it; \
         set Restart=no for {unit} in a drop-in (or stop it), then start reloader"
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

/// What systemd says of a unit's Restart=; `None` where there is no systemd to ask.
fn restart_setting(unit: &str) -> Option<String> {
    let output =
        std::process::Command::new("systemctl").args(["show", "--property=Restart", "--value", unit]).output().ok()?;
    let value = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !value.is_empty()).then_some(value)
}

async fn take_over(supervisor: &mut Supervisor, mut generation: Generation) -> Result<Receipt, DaemonError> {
    let mut recorder = Recorder::begin(Kind::Adopt, Instant::now(), 0, Some(generation.id()));
    let inspected =
        inspect(generation.process.pid(), generation.socket.clone(), supervisor.config.runtime_dir.clone()).await;
    let inspection = inspected.map_err(|error| DaemonError::CannotAdopt(error.to_string()))?;
    inspection.notes.iter().for_each(|note| recorder.note(note));
    recorder.phase(|phases| &mut phases.confirm);
    let owned: Vec<Owned> = inspection.owned;
    recorder.receipt().new = Some(generation.id());
    recorder.receipt().listeners = verdicts(&owned, &owned).into_iter().map(|verdict| verdict.receipt).collect();
    for draining in &mut supervisor.draining {
        draining.listeners = owned.clone();
    }
    generation.listeners = owned;
    generation.note_leaves();
    supervisor.promote(generation, inspection.custody);
    Ok(recorder.finish(Ok(())))
}

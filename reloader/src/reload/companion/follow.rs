//! Workers that come and go without being asked for: somebody else reloads HAProxy, its unit starts it again, or it was there before
//! the daemon.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::take_over::{generation, note, take_over};
use crate::haproxy::binds::Binds;
use crate::haproxy::master::{self, Found};
use crate::haproxy::scan;
use crate::process;
use crate::receipt::{Failure, Recorder};
use crate::receipt::{Kind, Receipt};
use crate::reload::protection::Protection;
use crate::reload::verdict::verdicts;
use crate::supervision::records::GenerationRecord;
use crate::supervision::{Generation, Supervisor};

/// A configuration that was changed so shortly before a worker began may not be the one that it has read.
const MARGIN: Duration = Duration::from_secs(5);

/// Looks whether the worker that serves is another one than is known, and follows it.
pub(crate) async fn follow(supervisor: &mut Supervisor) -> Option<Receipt> {
    let found = look_for(supervisor).await?;
    if supervisor
        .serving
        .as_ref()
        .is_some_and(|serving| serving.process.pid() == found.worker && supervisor.is_served())
    {
        return None;
    }
    let before = supervisor.serving.as_ref().map(Generation::id);
    log::info!("process {} serves now, and reloader did not ask for it: it is followed", found.worker);
    let mut recorder = Recorder::begin(Some(&supervisor.name), Kind::Adopt, Instant::now(), 0, before);
    if !supervisor.is_served() {
        // What was inside the worker that ended went with it, uncounted.
        recorder.receipt().lost.cut = None;
    }
    let (old, mut guards) = (supervisor.present_listeners(), Protection::default());
    let outcome = take_over(supervisor, &found, &old, &mut recorder, &mut guards, &|_| {}).await;
    guards.release(supervisor, &mut recorder, &|_| {}).await;
    note_binds(supervisor, found.worker);
    Some(recorder.finish(outcome))
}

/// The first look of a daemon. `recorded` is the worker that its predecessor saw serve: one that is still the same keeps its number.
pub(crate) async fn adopt(supervisor: &mut Supervisor, recorded: Option<&GenerationRecord>) -> Option<Receipt> {
    let found = look_for(supervisor).await?;
    let mut recorder = Recorder::begin(Some(&supervisor.name), Kind::Adopt, Instant::now(), 0, None);
    let outcome = adopt_found(supervisor, &found, recorded, &mut recorder).await;
    note_binds(supervisor, found.worker);
    Some(recorder.finish(outcome))
}

async fn adopt_found(
    supervisor: &mut Supervisor,
    found: &Found,
    recorded: Option<&GenerationRecord>,
    recorder: &mut Recorder,
) -> Result<(), Failure> {
    let next = supervisor.next_number;
    let mut generation = generation(supervisor, found)?;
    if let Some(record) = recorded.filter(|record| is_same(record, &generation)) {
        supervisor.next_number = next;
        generation.number = record.number;
        generation.since = SystemTime::UNIX_EPOCH + Duration::from_secs(record.since);
    }
    let place = supervisor.place.clone();
    let inspected = supervisor.server.inspect(&generation.process, &found.socket, &place).await;
    let mut inspection = inspected.map_err(|error| Failure::new(error.to_string()))?;
    inspection.doubt.iter().for_each(|doubt| recorder.note(doubt));
    note(&inspection, recorder);
    recorder.phase(|phases| &mut phases.confirm);
    recorder.receipt().new = Some(generation.id());
    let owned = inspection.owned;
    recorder.receipt().listeners = verdicts(&owned, &owned).into_iter().map(|verdict| verdict.receipt).collect();
    generation.listeners = owned;
    generation.sentinel = inspection.sentinel;
    supervisor.limit_custody(&mut inspection.custody);
    supervisor.promote(generation, inspection.custody);
    Ok(())
}

fn is_same(record: &GenerationRecord, generation: &Generation) -> bool {
    (record.pid, record.start_time) == (generation.process.pid(), generation.process.start_time())
}

async fn look_for(supervisor: &mut Supervisor) -> Option<Found> {
    let companion = supervisor.companion.as_ref()?;
    let mut sockets: Vec<PathBuf> =
        scan::facts(&scan::read(&companion.haproxy.config).unwrap_or_default()).stats_sockets;
    let known: Vec<PathBuf> = companion.sockets.iter().filter(|socket| !sockets.contains(socket)).cloned().collect();
    sockets.extend(known);
    let found = master::find(&sockets, &companion.haproxy.binary, |_| true).await;
    let absent = found.as_ref().err().map(ToString::to_string);
    let companion = supervisor.companion.as_mut()?;
    if absent.is_some() && absent != companion.absent {
        log::warn!("{}", absent.as_deref().unwrap_or_default());
    }
    companion.absent = absent;
    found.ok()
}

/// What the worker has read is known only if the files have not changed since before it began.
fn note_binds(supervisor: &mut Supervisor, worker: u32) {
    let Some(companion) = &mut supervisor.companion else { return };
    let sources = scan::read(&companion.haproxy.config).unwrap_or_default();
    let is_older = |path: &PathBuf| {
        let changed = scan::changed_at(path)?;
        Some(changed + MARGIN < process::started_at(worker)?)
    };
    let known = !sources.is_empty() && sources.iter().all(|(path, _)| is_older(path).unwrap_or(false));
    companion.binds = known.then(|| Binds::from_sources(&sources));
}

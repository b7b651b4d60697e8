//! Follows workers that come and go without being asked for: another process reloads HAProxy, its unit starts it again, or it was there
//! before the daemon.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use super::take_over::{generation, note};
use crate::haproxy::binds::Binds;
use crate::haproxy::master::{self, Found};
use crate::haproxy::scan;
use crate::process::{self, run_blocking};
use crate::receipt::{Failure, Kind, ReasonCode, Receipt};
use crate::reload::attempt::{Attempt, ReloadRequest};
use crate::reload::verdict::verdicts;
use crate::server;
use crate::supervision::records::GenerationRecord;
use crate::supervision::{Generation, Supervisor};

/// A worker may not have read a configuration that was changed less than this time before the worker began.
const MARGIN: Duration = Duration::from_secs(5);

/// Looks whether the worker that serves is another one than is known, and follows it.
pub(crate) async fn follow(supervisor: &mut Supervisor) -> Option<Receipt> {
    let found = look_for(supervisor).await?;
    let known = supervisor.serving().map(|serving| serving.process.pid());
    if known == Some(found.worker) && supervisor.is_served() {
        return None;
    }
    log::info!("process {} serves now, and reloader did not ask for it: it is followed", found.worker);
    let mut attempt = Attempt::new(supervisor, ReloadRequest::now(Kind::Adopt), &|_| {});
    if !attempt.supervisor.is_served() {
        // The connections of the worker that ended were cut, and they were not counted.
        attempt.recorder.receipt().lost.cut = None;
    }
    let old = attempt.supervisor.present_listeners();
    let outcome = attempt.take_over(&found, &old).await;
    attempt.release().await;
    note_binds(attempt.supervisor, found.worker).await;
    Some(attempt.recorder.finish(outcome))
}

/// The first look of a daemon. `recorded` is the worker that its predecessor saw serve: one that is still the same keeps its number.
pub(crate) async fn adopt(supervisor: &mut Supervisor, recorded: Option<&GenerationRecord>) -> Option<Receipt> {
    let found = look_for(supervisor).await?;
    let mut attempt = Attempt::new(supervisor, ReloadRequest::now(Kind::Adopt), &|_| {});
    let outcome = attempt.adopt_found(&found, recorded).await;
    note_binds(attempt.supervisor, found.worker).await;
    Some(attempt.recorder.finish(outcome))
}

impl Attempt<'_> {
    async fn adopt_found(&mut self, found: &Found, recorded: Option<&GenerationRecord>) -> Result<(), Failure> {
        let next = self.supervisor.generations().next_number();
        let mut generation = generation(self.supervisor, found).await?;
        if let Some(record) = recorded.filter(|record| is_same(record, &generation)) {
            self.supervisor.count_from(next);
            generation.number = record.number;
            generation.since = record.since();
        }
        let inspected = self.supervisor.inspect(&generation.process, &found.socket).await;
        let mut inspection =
            inspected.map_err(|error| Failure::new(ReasonCode::InspectionFailed, error.to_string()))?;
        inspection.doubt.iter().for_each(|doubt| self.recorder.note(doubt));
        note(&inspection, &mut self.recorder);
        self.recorder.phase(|phases| &mut phases.confirm);
        self.recorder.receipt().new = Some(generation.id());
        let unreachable = self.supervisor.unreachable_now(&inspection).await;
        let owned = inspection.owned;
        let receipts =
            verdicts(&owned, &owned, &unreachable, &HashSet::new()).into_iter().map(|verdict| verdict.receipt);
        self.recorder.receipt().listeners = receipts.collect();
        generation.listeners = owned;
        generation.sentinel = inspection.sentinel;
        self.supervisor.limit_custody(&mut inspection.custody);
        self.supervisor.promote(generation, inspection.custody);
        Ok(())
    }
}

fn is_same(record: &GenerationRecord, generation: &Generation) -> bool {
    (record.pid, record.start_time) == (generation.process.pid(), generation.process.start_time())
}

async fn look_for(supervisor: &mut Supervisor) -> Option<Found> {
    let companion = supervisor.server().companion()?;
    let (files, binary) = (companion.config().config.clone(), companion.config().binary.clone());
    let named = run_blocking(move || server::stats_sockets(&files)).await;
    let sockets = supervisor.server().companion()?.with_known_sockets(named);
    let found = master::find(&sockets, &binary, |_| true).await;
    supervisor.set_absent(found.as_ref().err().map(ToString::to_string));
    found.ok()
}

/// What the worker has read is known only if the files have not changed since before it began.
async fn note_binds(supervisor: &mut Supervisor, worker: u32) {
    let Some(companion) = supervisor.server().companion() else { return };
    let files = companion.config().config.clone();
    supervisor.set_binds(run_blocking(move || binds_read_by(worker, &files)).await);
}

fn binds_read_by(worker: u32, files: &[PathBuf]) -> Option<Binds> {
    let sources = scan::read(files).unwrap_or_default();
    let is_older = |path: &PathBuf| {
        let changed = scan::changed_at(path)?;
        Some(changed + MARGIN < process::started_at(worker)?)
    };
    let known = !sources.is_empty() && sources.iter().all(|(path, _)| is_older(path).unwrap_or(false));
    known.then(|| Binds::from_sources(&sources))
}

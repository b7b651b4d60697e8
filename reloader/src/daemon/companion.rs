//! Finds and follows a HAProxy that its own unit runs (companion mode). The daemon never starts it and never stops it.

use std::time::Instant;

use super::event_loop::EventLoop;
use crate::fs::generation_files::GenerationFiles;
use crate::haproxy::master::workers_to_be_told;
use crate::kernel::sock_diag;
use crate::process::{self, Ended, Handle, ProcessScope};
use crate::reload::companion;
use crate::supervision::records::{GenerationRecord, GenerationRecords, State};
use crate::supervision::{Generation, Notice, ProcessNotice, Supervisor};

/// Finds what serves. Without it the daemon waits: units start in any order.
pub(super) async fn begin(supervisor: &mut Supervisor) {
    let records = GenerationRecords::load(supervisor.place());
    supervisor.continue_from(&records);
    if !records.companion {
        warn_of_supervised(supervisor, &records);
    }
    let workers = if records.companion { records.generations } else { Vec::new() };
    let serving = workers.iter().find(|record| record.state == State::Serving);
    let adopted = companion::adopt(supervisor, serving).await;
    let now = supervisor.serving().map(|serving| serving.process.pid());
    let mut draining: Vec<Generation> =
        workers.iter().filter(|record| Some(record.pid) != now).filter_map(retired).collect();
    let listeners = supervisor.present_listeners();
    let machine = sock_diag::tcp_listeners().unwrap_or_default();
    for generation in &mut draining {
        let sockets = process::sockets_of(&generation.processes());
        generation.note_listeners(&listeners, &machine, &sockets);
    }
    draining.into_iter().for_each(|generation| supervisor.follow_draining(generation));
    let is_gone = |record: &&GenerationRecord| process::start_time(record.pid) != Some(record.start_time);
    for record in workers.iter().filter(is_gone) {
        if let Some(receipt) = supervisor.unseen_end(record) {
            supervisor.store_receipt(&receipt).await;
        }
    }
    supervisor.record();
    if let Some(receipt) = adopted {
        supervisor.store_receipt(&receipt).await;
    }
}

/// A worker that a predecessor of this daemon saw retired, or that was retired while there was none.
fn retired(record: &GenerationRecord) -> Option<Generation> {
    let process = Handle::adopt(record.pid, record.start_time)?;
    let files = GenerationFiles { overlay: Default::default(), socket: record.socket.clone(), log: Default::default() };
    let mut generation =
        Generation::started(record.number, process, ProcessScope::SameProgram, files, record.config.clone());
    (generation.files, generation.log) = (None, None);
    generation.retired = record.retired_at().or_else(|| Some(Instant::now()));
    generation.drain_times = record.drain_times();
    generation.end_is_recorded = record.end_is_recorded;
    Some(generation)
}

fn warn_of_supervised(supervisor: &mut Supervisor, records: &GenerationRecords) {
    let mut living =
        records.generations.iter().filter_map(|record| Some((record, Handle::adopt(record.pid, record.start_time)?)));
    let Some((record, process)) = living.next() else { return };
    let workers = workers_to_be_told(record.pid, &[]);
    let told = workers.map_or(vec![record.pid], |workers| workers.into_iter().map(|(pid, _)| pid).collect());
    let told: Vec<String> = told.iter().map(u32::to_string).collect();
    let name = format!("generation {} (process {})", record.number, record.pid);
    let text = format!(
        "it was started by reloader itself, before mode = \"companion\", and is left alone; end it with `kill -USR1 {}` once the unit of \
         HAProxy serves",
        told.join(" ")
    );
    let about = ProcessNotice { processes: vec![(process, name)], text };
    log::warn!("{}", about.sentence());
    supervisor.warn_of_processes(Notice::SupervisedGeneration, Some(about));
}

impl EventLoop {
    /// Looks whether the worker is where it was seen last, and follows what has changed.
    pub(super) async fn follow_companion(&mut self) {
        if !self.supervisor.misses_its_worker() {
            return;
        }
        self.follow_now().await;
        if self.supervisor.serving().is_some() && self.supervisor.misses_its_worker() {
            self.supervisor.worker_is_missing();
            self.supervisor.publish();
        }
    }

    /// The worker has ended: on its own, or because it was retired and had nothing left to drain.
    pub(super) async fn companion_ended(&mut self, ended: Ended) {
        self.follow_now().await;
        if !self.supervisor.is_served() && self.supervisor.serving().is_some() {
            self.supervisor.serving_ended(ended);
        }
        self.supervisor.reap_draining().await;
        self.supervisor.publish();
    }

    async fn follow_now(&mut self) {
        if let Some(receipt) = companion::follow(&mut self.supervisor).await {
            self.supervisor.store_receipt(&receipt).await;
            self.supervisor.publish();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::haproxy::drain_times::DrainTimes;

    /// The hard stop of HAProxy is told by its time: that counts from the retirement, and from the end of `grace`.
    #[tokio::test]
    async fn worker_of_an_earlier_daemon_keeps_the_time_of_its_hard_stop() {
        let pid = std::process::id();
        let record: GenerationRecord = serde_json::from_value(serde_json::json!({
            "number": 7, "pid": pid, "start-time": process::start_time(pid).unwrap(), "state": "draining", "socket": "", "config": "",
            "since": 1, "retired": crate::supervision::since_epoch(std::time::SystemTime::now()) - 9, "hard-stop-after-ms": 3000, "grace-ms": 2000,
        }))
        .unwrap();
        let generation = retired(&record).unwrap();
        let times = DrainTimes { grace: Some(Duration::from_secs(2)), hard_stop_after: Some(Duration::from_secs(3)) };
        assert_eq!(generation.drain_times, times);
        assert_eq!(times.until_hard_stop(), Some(Duration::from_secs(5)));
        assert!(generation.retired.unwrap().elapsed() >= Duration::from_secs(8));
    }

    /// A daemon that is killed after it stored the receipt leaves the next one nothing to tell.
    #[tokio::test]
    async fn next_daemon_knows_whether_a_receipt_tells_the_end() {
        let pid = std::process::id();
        let record: GenerationRecord = serde_json::from_value(serde_json::json!({
            "number": 7, "pid": pid, "start-time": process::start_time(pid).unwrap(), "state": "draining", "socket": "", "config": "",
            "since": 1, "end-is-recorded": true,
        }))
        .unwrap();
        assert!(retired(&record).unwrap().record(State::Draining).end_is_recorded);
    }
}

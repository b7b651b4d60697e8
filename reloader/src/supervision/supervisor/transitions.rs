//! Carries out the changes that affect generations, sockets and outage together, such as a generation that begins to
//! serve or to drain.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::Supervisor;
use crate::model::listener::Owned;
use crate::process::{Handle, SocketOwner};
use crate::server::{RetireRequest, Worker};
use crate::sockets::custody::{Custody, KeptSocket};
use crate::sockets::inspection::Inspection;
use crate::supervision::records::GenerationRecords;
use crate::supervision::{CustodyEnd, Generation, Notice};

impl Supervisor {
    /// Takes the number of the next generation.
    pub(crate) fn take_number(&mut self) -> u64 {
        self.generations.take_number()
    }

    /// Makes `number` the number of the next generation.
    pub(crate) fn count_from(&mut self, number: u64) {
        self.generations.count_from(number);
    }

    /// Continues with the next number and the last start time that an earlier daemon recorded.
    pub(crate) fn continue_from(&mut self, records: &GenerationRecords) {
        self.generations.count_from(records.next);
        self.generations.set_last_start(records.last_start_ms.map(Duration::from_millis));
    }

    /// Notes how long a start took.
    pub(crate) fn note_start_time(&mut self, time: Duration) {
        self.generations.set_last_start(Some(time));
    }

    /// Notes whether the start that failed was cut short by custody-max, which says nothing against its configuration.
    pub(crate) fn note_failed_start(&mut self, cut_by_custody_max: bool) {
        self.outage.set_cut_by_custody_max(cut_by_custody_max);
    }

    /// Counts a failed start during an outage, and sets the time of the next try from now. False if there is no outage.
    pub(crate) fn count_failed_start(&mut self) -> bool {
        self.outage.count_failed_start()
    }

    /// Begins an outage now, after a generation made room and both starts failed: from the configuration on disk, and
    /// from the last-known-good one.
    pub(crate) fn begin_outage_after_failed_starts(&mut self) {
        self.outage.begin_after_failed_starts();
    }

    /// Notes why a running server could not be adopted. No generation is started beside it.
    pub(crate) fn block_adoption(&mut self, why: String) {
        self.outage.block_adoption(why);
    }

    /// Notes that a master retires the serving generation, at this time at the earliest.
    pub(crate) fn note_retirement_by_master(&mut self, not_before: Option<Instant>) {
        self.generations.update_serving(|serving| serving.retired_not_before = not_before);
    }

    /// Notes a generation that is started and not yet proven.
    pub(crate) fn begin_start(&mut self, generation: Generation) {
        self.generations.begin_start(generation);
        self.publish();
    }

    /// Takes out the generation that is started and not proven.
    pub(crate) fn take_starting(&mut self) -> Option<Generation> {
        self.generations.take_starting()
    }

    /// The lines that the starting generation wrote on standard error.
    pub(crate) fn starting_log_lines(&mut self) -> Vec<String> {
        let lines = self.generations.update_starting(|starting| {
            starting.read_start_lines();
            std::mem::take(&mut starting.start_lines)
        });
        lines.unwrap_or_default()
    }

    /// Makes `new` the serving generation, with its custody. The generation that served before drains. Returns the
    /// earlier custody, which may hold sockets that the new generation did not take.
    pub(crate) fn promote(&mut self, new: Generation, custody: Custody) -> Custody {
        self.detach_steering_now();
        let before = self.sockets.replace(custody);
        self.hand_sockets_to_service_manager();
        self.generations.promote(new);
        self.outage.end();
        self.notices.clear(Notice::NothingServes);
        self.notices.clear(Notice::LastKnownGood);
        self.record_with_flags();
        before
    }

    /// Updates the serving generation and its custody after an inspection.
    pub(crate) fn update_serving(&mut self, inspection: Inspection) {
        let mut custody = inspection.custody;
        custody.complete_from(self.custody().kept(), &inspection.sockets);
        self.limit_custody(&mut custody);
        self.sockets.replace(custody);
        self.hand_sockets_to_service_manager();
        self.generations.update_serving(|serving| {
            serving.listeners = inspection.owned;
            serving.note_worker_processes(&inspection.sockets);
        });
    }

    /// Retires the serving generation before the next one starts, because the next one cannot bind beside it. Records it
    /// as draining, and closes the daemon's duplicates of its TCP sockets. Returns how it is asked to end, and where its
    /// listeners were.
    pub(crate) async fn vacate(&mut self, held_until: Option<Instant>) -> Option<(RetireRequest, Custody)> {
        let old = self.generations.take_serving()?;
        self.detach_steering_now();
        let request = old.retire_request();
        // While SYNs are held, no client waits in vain. The outage therefore counts from the end of the hold, and custody
        // of the other sockets is kept longer.
        self.outage.begin(held_until.unwrap_or_else(Instant::now), old.serving_since.elapsed());
        self.clear_warning(Notice::LastKnownGood);
        self.warn(Notice::NothingServes, format!("nothing serves: generation {} made room for the next", old.number));
        self.sockets.retain(|kept| !kept.listener.endpoint.is_tcp_here());
        self.hand_sockets_to_service_manager();
        let mut listened = self.custody().clone();
        listened.retain(|_| false);
        self.begin_draining(old).await;
        Some((request, listened))
    }

    /// Makes a generation serve again that was asked to make room and has not done so.
    pub(crate) fn reinstate(&mut self, process: &Handle) {
        if self.generations.reinstate(process) {
            self.outage.revoke();
            self.clear_warning(Notice::NothingServes);
            self.record();
        }
    }

    /// Adds a generation to the draining ones. This is recorded before the generation is asked to end.
    pub(crate) async fn begin_draining(&mut self, mut generation: Generation) {
        generation.retired = Some(Instant::now());
        self.generations.add_draining(generation);
        // A failure is logged. The generation is asked to end all the same.
        let _ = self.record_now().await;
    }

    /// Follows a generation that an earlier daemon, or another supervisor, has retired.
    pub(crate) fn follow_draining(&mut self, generation: Generation) {
        self.generations.add_draining(generation);
    }

    /// Calls `change` for each draining generation.
    pub(crate) fn update_draining(&mut self, change: impl FnMut(&mut Generation)) {
        self.generations.update_draining(change);
    }

    /// Takes out the serving generation, to retire it.
    pub(crate) fn take_serving(&mut self) -> Option<Generation> {
        self.generations.take_serving()
    }

    /// Takes custody of the sockets of a server that served before this daemon. Begins an outage, because nothing serves
    /// now.
    pub(crate) fn begin_from_the_dead(&mut self, custody: Custody) {
        self.sockets.replace(custody);
        self.hand_sockets_to_service_manager();
        self.outage.begin(Instant::now(), Duration::MAX);
    }

    /// Removes and returns the sockets that an earlier daemon has left with the service manager.
    pub(crate) fn take_received(&mut self) -> Vec<KeptSocket> {
        self.sockets.take_received()
    }

    /// Adds sockets from `others` to custody: those that `sockets` lists and custody lacks.
    pub(crate) fn complete_custody(&mut self, others: &[KeptSocket], sockets: &HashMap<u64, SocketOwner>) {
        self.sockets.complete_from(others, sockets);
    }

    /// Notes the listeners of a generation of which the daemon has no duplicate. Their ports are refused from now on.
    pub(crate) fn note_refused_listeners(&mut self, listeners: &[Owned]) {
        let kept: HashSet<u64> = self.custody().kept().iter().map(|kept| kept.listener.inode).collect();
        let lost = listeners.iter().filter(|owned| !kept.contains(&owned.listener.inode));
        self.outage.refuse(lost.cloned().collect());
    }

    /// Drops custody. Nothing serves, so that new connections would wait in vain.
    pub(crate) fn drop_custody(&mut self, why: CustodyEnd) {
        if self.custody().is_empty() {
            return;
        }
        log::error!(
            "{}: nothing serves, and {}: custody is dropped, so that clients fail over",
            self.name(),
            why.words()
        );
        self.outage.refuse_also(self.custody_as_owned());
        self.sockets.drop_custody();
        // The broker has duplicates of the sockets that it offers.
        self.server().withdraw();
        self.hand_sockets_to_service_manager();
    }

    /// Closes all kept sockets, and removes what the daemon made for clients. The server will not be started again.
    pub(crate) fn leave_sockets(&mut self) {
        self.server().leave(self.custody());
        self.sockets.drop_custody();
        self.hand_sockets_to_service_manager();
    }

    /// Gives the sockets in custody to the service manager, which keeps them while no daemon runs.
    pub(crate) fn hand_sockets_to_service_manager(&mut self) {
        let stores = self.server().stores_sockets();
        self.sockets.hand_to_service_manager(stores);
    }

    /// Waits until the service manager has closed the sockets that were taken out of its share.
    pub(crate) async fn settle_service_manager(&mut self) {
        self.sockets.settle_service_manager().await;
    }

    /// Notes that this worker of a companion's master serves.
    pub(crate) fn set_worker(&mut self, pid: u32, worker: Worker) {
        // A worker that did not answer when the daemon started was counted as retired.
        self.generations.forget_draining(pid);
        self.service.update_companion(|companion| companion.set_worker(worker));
    }
}

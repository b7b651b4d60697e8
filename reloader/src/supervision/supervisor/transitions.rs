//! How a generation comes to serve, and how it goes: what changes generations, sockets and outage together.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::Supervisor;
use crate::model::listener::Owned;
use crate::process::{Handle, SocketOwner};
use crate::server::{RetireRequest, Worker};
use crate::sockets::custody::{Custody, KeptSocket};
use crate::sockets::inspection::Inspection;
use crate::supervision::records::GenerationRecords;
use crate::supervision::{Generation, Notice};

impl Supervisor {
    /// Takes the number of the next generation.
    pub(crate) fn take_number(&mut self) -> u64 {
        self.generations.take_number()
    }

    /// Goes on counting from `number`.
    pub(crate) fn count_from(&mut self, number: u64) {
        self.generations.count_from(number);
    }

    /// Goes on where an earlier daemon has left off.
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

    /// A start during an outage has failed: what is due next counts from now. False where something serves.
    pub(crate) fn count_failed_start(&mut self) -> bool {
        self.outage.count_failed_start()
    }

    /// The generation that made room has no successor, neither from the configuration on disk nor from the last-known-good one: what is
    /// due then counts from now.
    pub(crate) fn begin_outage_after_failed_starts(&mut self) {
        self.outage.begin_after_failed_starts();
    }

    /// A server that runs could not be adopted, for this reason: nothing is started beside it.
    pub(crate) fn block_adoption(&mut self, why: String) {
        self.outage.block_adoption(why);
    }

    /// A generation is started and not proven.
    pub(crate) fn begin_start(&mut self, generation: Generation) {
        self.generations.begin_start(generation);
    }

    /// Takes out the generation that is started and not proven.
    pub(crate) fn take_starting(&mut self) -> Option<Generation> {
        self.generations.take_starting()
    }

    /// What the generation that is starting wrote on standard error since the last call; after its end a last line without an end as well.
    pub(crate) fn starting_log_lines(&mut self) -> Vec<String> {
        let lines = self.generations.update_starting(|starting| match starting.process.try_ended() {
            Some(_) => starting.last_log_lines(),
            None => starting.new_log_lines(),
        });
        lines.unwrap_or_default()
    }

    /// Makes `new` the serving generation with its custody, and the one before a draining one. The custody before is returned: it may hold
    /// what the new one did not take.
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

    /// What the serving generation was seen with just now.
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

    /// The serving generation makes room for the next, which cannot be bound beside it: it is recorded as draining, and what the daemon
    /// has of its TCP sockets is closed. Returns how it is asked to end, and where its listeners were.
    pub(crate) async fn vacate(&mut self, held_until: Option<Instant>) -> Option<(RetireRequest, Custody)> {
        let old = self.generations.take_serving()?;
        self.detach_steering_now();
        let request = old.retire_request();
        // While SYNs are held no client waits in vain: custody of the other sockets is kept as long.
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

    /// The generation that was to make room has not done so: it serves on.
    pub(crate) fn reinstate(&mut self, process: &Handle) {
        if self.generations.reinstate(process) {
            self.outage.revoke();
            self.clear_warning(Notice::NothingServes);
            self.record();
        }
    }

    /// Puts a generation among the draining ones. It is recorded so before it is asked anything.
    pub(crate) async fn begin_draining(&mut self, mut generation: Generation) {
        generation.retired = Some(Instant::now());
        self.generations.add_draining(generation);
        // A failure is in the log. It must not keep the generation from being asked to end.
        let _ = self.record_now().await;
    }

    /// Follows a generation that an earlier daemon, or another supervisor, has retired.
    pub(crate) fn follow_draining(&mut self, generation: Generation) {
        self.generations.add_draining(generation);
    }

    /// Changes what is known of each draining generation.
    pub(crate) fn update_draining(&mut self, change: impl FnMut(&mut Generation)) {
        self.generations.update_draining(change);
    }

    /// Takes out the serving generation, to retire it.
    pub(crate) fn take_serving(&mut self) -> Option<Generation> {
        self.generations.take_serving()
    }

    /// Custody of what served before this daemon, with nothing serving now.
    pub(crate) fn begin_from_the_dead(&mut self, custody: Custody) {
        self.sockets.replace(custody);
        self.hand_sockets_to_service_manager();
        self.outage.begin(Instant::now(), Duration::MAX);
    }

    /// Takes what an earlier daemon has left with the service manager.
    pub(crate) fn take_received(&mut self) -> Vec<KeptSocket> {
        self.sockets.take_received()
    }

    /// Takes over what is in `others` of the sockets that `sockets` lists and custody lacks.
    pub(crate) fn complete_custody(&mut self, others: &[KeptSocket], sockets: &HashMap<u64, SocketOwner>) {
        self.sockets.complete_from(others, sockets);
    }

    /// What of a generation's listeners the daemon has no duplicate of: their ports are refused from now on.
    pub(crate) fn note_refused_listeners(&mut self, listeners: &[Owned]) {
        let kept: HashSet<u64> = self.custody().kept().iter().map(|kept| kept.listener.inode).collect();
        let lost = listeners.iter().filter(|owned| !kept.contains(&owned.listener.inode));
        self.outage.refuse(lost.cloned().collect());
    }

    /// Drops custody: nothing serves, so what comes to the ports would wait in vain.
    pub(crate) fn drop_custody(&mut self) {
        if self.custody().is_empty() {
            return;
        }
        log::error!(
            "nothing serves, after two failed starts or custody-max: custody is dropped, so that clients fail over"
        );
        self.outage.refuse_also(self.custody_as_owned());
        self.sockets.drop_custody();
        // What is on offer is kept by the broker as well.
        self.server().withdraw();
        self.hand_sockets_to_service_manager();
    }

    /// Lets go of all sockets, and removes what the daemon made for clients: the server is not to be started again.
    pub(crate) fn leave_sockets(&mut self) {
        self.server().leave(self.custody());
        self.sockets.drop_custody();
        self.hand_sockets_to_service_manager();
    }

    /// The service manager keeps what is in custody while no daemon runs.
    pub(crate) fn hand_sockets_to_service_manager(&mut self) {
        let stores = self.server().stores_sockets();
        self.sockets.hand_to_service_manager(stores);
    }

    /// Waits until the service manager has closed what was taken out of its share.
    pub(crate) async fn settle_service_manager(&mut self) {
        self.sockets.settle_service_manager().await;
    }

    /// A worker of a companion's master serves.
    pub(crate) fn set_worker(&mut self, pid: u32, worker: Worker) {
        // One that did not answer when the daemon started was taken for a retired one.
        self.generations.forget_draining(pid);
        self.service.update_companion(|companion| companion.set_worker(worker));
    }
}

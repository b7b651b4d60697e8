//! One service of the daemon, as a few parts that keep their own invariants. What changes several parts at once is a method here.

mod companion;
mod decisions;
mod ends;
mod housekeeping;
mod last_known_good;
mod orphans;
mod reachability;
mod reporting;
mod storing;
mod transitions;

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::drain_looks::DrainLooks;
use super::pid_file::PidFile;
use super::reach::Reach;
use super::record_writer::RecordWriter;
use super::steering::Steering;
use super::{
    Generation, Generations, Heartbeat, Host, LastKnownGood, Notice, Notices, PathLinks, ProcessNotice, Receipts,
    Service, ServiceOutage, SocketStore, StatusBoard, outage,
};
use crate::config::Config;
use crate::model::listener::{Endpoint, Owned};
use crate::server::{RetireRequest, Server};
use crate::sockets::custody::Custody;

/// The state of one service.
pub(crate) struct Supervisor {
    service: Service,
    host: Host,
    generations: Generations,
    sockets: SocketStore,
    reach: Reach,
    /// Links to unix sockets whose paths a draining generation may take away.
    path_links: PathLinks,
    steering: Steering,
    outage: ServiceOutage,
    notices: Notices,
    receipts: Receipts,
    last_known_good: LastKnownGood,
    records: RecordWriter,
    looks: DrainLooks,
    pid_file: PidFile,
    board: StatusBoard,
    /// Becomes true when the daemon is asked to stop.
    stopping: watch::Receiver<bool>,
    /// Why the check before a reload refused the configuration. It is kept until a reload is carried out.
    refused: Option<String>,
    /// What a wanted reload waits for when the length of the wait is unknown.
    waits: Option<&'static str>,
    /// Generations that stopped listening. They are asked to end once it is recorded that they drain.
    stopped: Vec<RetireRequest>,
}

impl Supervisor {
    /// A service that serves nothing yet.
    pub(crate) fn new(
        service: Service,
        host: Host,
        sockets: SocketStore,
        receipts: Receipts,
        (board, stopping): (StatusBoard, watch::Receiver<bool>),
    ) -> Supervisor {
        Supervisor {
            last_known_good: LastKnownGood::open(&service.last_known_good_dir()),
            records: RecordWriter::new(service.place().to_owned()),
            looks: DrainLooks::default(),
            pid_file: PidFile::default(),
            service,
            host,
            generations: Generations::default(),
            sockets,
            reach: Reach::default(),
            path_links: PathLinks::default(),
            steering: Steering::default(),
            outage: ServiceOutage::default(),
            notices: Notices::default(),
            receipts,
            board,
            stopping,
            refused: None,
            waits: None,
            stopped: Vec::new(),
        }
    }

    /// The name of the service.
    pub(crate) fn name(&self) -> &str {
        self.service.name()
    }

    /// The directory below runtime-dir with the files of its generations.
    pub(crate) fn place(&self) -> &Path {
        self.service.place()
    }

    /// Which service this is.
    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    /// The configuration, with the strategy of this service.
    pub(crate) fn config(&self) -> &Config {
        self.service.config()
    }

    /// The kind of server.
    pub(crate) fn server(&self) -> &Server {
        self.service.server()
    }

    /// The machine.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// The generations.
    pub(crate) fn generations(&self) -> &Generations {
        &self.generations
    }

    /// The generation that serves.
    pub(crate) fn serving(&self) -> Option<&Generation> {
        self.generations.serving()
    }

    /// The sockets that the daemon keeps.
    pub(crate) fn sockets(&self) -> &SocketStore {
        &self.sockets
    }

    /// The daemon's duplicates of the serving generation's listeners.
    pub(crate) fn custody(&self) -> &Custody {
        self.sockets.custody()
    }

    /// The state of steering between reloads.
    pub(crate) fn steering(&self) -> &Steering {
        &self.steering
    }

    /// The state of an outage.
    pub(crate) fn outage(&self) -> &ServiceOutage {
        &self.outage
    }

    /// The warnings.
    pub(crate) fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Becomes true when the daemon is asked to stop.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.clone()
    }

    /// Tells the service manager, during a wait, that the loop of this service is alive.
    pub(crate) fn heartbeat(&self) -> Heartbeat {
        self.board.heartbeat_of(self.name())
    }

    /// Sets a warning.
    pub(crate) fn warn(&mut self, notice: Notice, text: impl Into<String>) {
        self.notices.set(notice, text);
    }

    /// Sets a warning, or clears it.
    pub(crate) fn replace_warning(&mut self, notice: Notice, text: Option<String>) {
        self.notices.replace(notice, text);
    }

    /// Sets a warning about processes that run on. It names each as long as that runs.
    pub(crate) fn warn_of_processes(&mut self, notice: Notice, about: Option<ProcessNotice>) {
        self.notices.set_of_processes(notice, about);
    }

    /// Clears a warning whose cause has gone.
    pub(crate) fn clear_warning(&mut self, notice: Notice) {
        self.notices.clear(notice);
    }

    /// Whether the serving generation lives at this moment. During a reload the loop does not notice that a generation
    /// has ended.
    pub(crate) fn is_served(&self) -> bool {
        self.generations.is_served()
    }

    /// Whether clients of this service are served at this moment. A companion's worker may live although it has closed
    /// its listeners.
    pub(crate) fn serves(&self) -> bool {
        self.is_served() && !self.worker_has_let_go()
    }

    /// The listeners that a new generation must take over: those of the serving generation, those that custody kept of a
    /// dead generation, or those that were given up since.
    pub(crate) fn present_listeners(&self) -> Vec<Owned> {
        if let Some(serving) = self.serving() {
            return serving.listeners.clone();
        }
        let refused = self.outage.refused().into_iter().flat_map(|refused| refused.listeners.iter().cloned());
        self.custody_as_owned().into_iter().chain(refused).collect()
    }

    /// The endpoints on which the service serves, has served, or was to serve.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.generations.endpoints().chain(self.server().endpoints()).collect()
    }

    /// The listeners in custody, each socket once.
    pub(crate) fn custody_as_owned(&self) -> Vec<Owned> {
        let mut listed = HashSet::new();
        let kept = self.custody().kept().iter().filter(|kept| listed.insert(kept.listener.inode));
        kept.map(|kept| Owned { listener: kept.listener.clone(), role: kept.role }).collect()
    }

    /// How long custody is kept while nothing serves.
    pub(crate) fn custody_max(&self) -> Duration {
        outage::custody_max(self.config().reload.custody_max, self.generations.last_start())
    }

    /// When custody is dropped at the latest. `None` while a generation serves or custody is empty.
    pub(crate) fn custody_ends(&self) -> Option<Instant> {
        self.outage.custody_ends(self.custody_max()).filter(|_| !self.custody().is_empty())
    }
}

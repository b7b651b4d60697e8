//! Follows a generation, which is one run of the server.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;

use super::connections::open_connections;
use super::drain_ledger::DrainLedger;
use super::log_tail::LogTail;
use super::records::{GenerationRecord, State};
use crate::config::Stop;
use crate::fs::generation_files::GenerationFiles;
use crate::haproxy::drain_times::DrainTimes;
use crate::kernel::sock_diag::ListenSocket;
use crate::model::listener::{Endpoint, Listener, Owned, Role};
use crate::process::{self, Handle, ProcessScope, SocketOwner};
use crate::receipt::GenerationId;
use crate::server::RetireRequest;
use crate::sockets::custody::KeptSocket;

/// How many lines of a start are kept.
const MAX_START_LINES: usize = 200;

/// How long to wait for the end of a process after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A generation that the daemon follows.
#[derive(Debug)]
pub(crate) struct Generation {
    /// Its number.
    pub(crate) number: u64,
    /// Its root process.
    pub(crate) process: Handle,
    /// The processes that own the listeners, by pid and start time. The daemon must notice if they outlive the root
    /// process.
    pub(crate) worker_processes: Vec<(u32, u64)>,
    /// True if other processes than its root were seen to own listeners. The root is then a master.
    pub(crate) has_workers: bool,
    /// Since when the master has had programs and no worker, after it was retired.
    pub(crate) idle_since: Option<Instant>,
    /// Which processes of its tree may serve.
    pub(crate) scope: ProcessScope,
    /// The socket between it and the daemon. For a HAProxy this is the stats socket on which it answers.
    pub(crate) socket: PathBuf,
    /// The inode of the sentinel listener, once that was seen. The generation closes this listener only when it stops.
    pub(crate) sentinel: Option<u64>,
    /// How it is asked to end. `None` for a HAProxy, which is always asked in the same way.
    pub(crate) stop: Option<Stop>,
    /// The sockets that were passed to it, until it is proven.
    pub(crate) given: Vec<KeptSocket>,
    /// The daemon's files for it; `None` when another supervisor started it.
    pub(crate) files: Option<GenerationFiles>,
    /// True if no other socket can be bound beside its own (`noreuseport`).
    pub(crate) noreuseport: bool,
    /// The user as which it was to open its sockets, by its configuration. `None` if that is not known.
    pub(crate) binds_as: Option<u32>,
    /// The times by which HAProxy itself bounds its end.
    pub(crate) drain_times: DrainTimes,
    /// True if it wrote that it stops hard.
    pub(crate) says_hard_stop: bool,
    /// What its processes had when they were last looked at, after it was asked to end.
    pub(crate) ledger: Arc<Mutex<DrainLedger>>,
    /// The signal by which it is asked to end, if its root process handles it.
    pub(crate) handled_stop_signal: Option<i32>,
    /// True if a receipt says already what its end cut.
    pub(crate) end_is_recorded: bool,
    /// The configuration or command from which it was started, for people.
    pub(crate) config: String,
    /// When it was started.
    pub(crate) since: SystemTime,
    /// When it began to serve, on the monotonic clock.
    pub(crate) serving_since: Instant,
    /// When it was retired.
    pub(crate) retired: Option<Instant>,
    /// The earliest moment at which a master may have retired it. The daemon sees that afterwards. `None` if the daemon retires it itself.
    pub(crate) retired_not_before: Option<Instant>,
    /// The listeners that it has, or had when it was retired.
    pub(crate) listeners: Vec<Owned>,
    /// True if it was seen to have closed its listeners after it was retired.
    pub(crate) closed_listeners: bool,
    /// True if it was seen to listen still, after it was retired.
    pub(crate) retired_listens: bool,
    /// True if it outlived its master and was not asked to end yet.
    pub(crate) awaits_retirement: bool,
    /// Its standard error.
    pub(crate) log: Option<LogTail>,
    /// What it wrote there while it was being started, the last lines.
    pub(crate) start_lines: Vec<String>,
}

impl Generation {
    /// A generation whose process was just started.
    pub(crate) fn started(
        number: u64,
        process: Handle,
        scope: ProcessScope,
        files: GenerationFiles,
        config: String,
    ) -> Generation {
        Generation {
            number,
            process,
            worker_processes: Vec::new(),
            has_workers: false,
            idle_since: None,
            scope,
            socket: files.socket.clone(),
            stop: None,
            sentinel: None,
            given: Vec::new(),
            log: Some(LogTail::new(&files.log, false)),
            files: Some(files),
            noreuseport: false,
            binds_as: None,
            drain_times: DrainTimes::default(),
            says_hard_stop: false,
            ledger: Arc::default(),
            handled_stop_signal: None,
            end_is_recorded: false,
            config,
            since: SystemTime::now(),
            serving_since: Instant::now(),
            retired: None,
            retired_not_before: None,
            listeners: Vec::new(),
            closed_listeners: false,
            retired_listens: false,
            awaits_retirement: false,
            start_lines: Vec::new(),
        }
    }

    /// A generation that consists of one process of this generation, which outlived the root process.
    pub(crate) fn orphan(&self, process: Handle) -> Generation {
        Generation {
            number: self.number,
            process,
            worker_processes: Vec::new(),
            has_workers: false,
            idle_since: None,
            scope: self.scope,
            socket: self.socket.clone(),
            stop: self.stop.clone(),
            sentinel: None,
            given: Vec::new(),
            files: None,
            noreuseport: self.noreuseport,
            binds_as: self.binds_as,
            drain_times: self.drain_times,
            says_hard_stop: false,
            // What was counted in this process still counts.
            ledger: self.ledger.clone(),
            handled_stop_signal: self.handled_stop_signal,
            end_is_recorded: false,
            config: self.config.clone(),
            since: self.since,
            serving_since: self.serving_since,
            retired: Some(Instant::now()),
            retired_not_before: self.retired_not_before,
            listeners: self.listeners.clone(),
            closed_listeners: false,
            retired_listens: false,
            awaits_retirement: true,
            log: None,
            start_lines: Vec::new(),
        }
    }

    /// Identifies the generation in receipts.
    pub(crate) fn id(&self) -> GenerationId {
        GenerationId { generation: self.number, pid: self.process.pid() }
    }

    /// The request that tells the server which process to ask to end, and how.
    pub(crate) fn retire_request(&self) -> RetireRequest {
        let listeners = self.listeners.iter().map(|owned| owned.listener.inode);
        let sockets = listeners.chain(self.sentinel).collect();
        RetireRequest { process: self.process.clone(), sockets, stop: self.stop.clone() }
    }

    /// Notes whether its root process handles the signal by which it is about to be asked to end.
    pub(crate) fn note_stop_signal(&mut self) {
        let signal = match &self.stop {
            Some(Stop::Signal(signal)) => Some(*signal),
            _ => None,
        };
        let handled = signal.filter(|signal| process::handles_signal(self.process.pid(), *signal));
        self.handled_stop_signal = handled.map(Signal::as_raw);
    }

    /// Notes that it never served. A HAProxy sets its handlers before it accepts connections: one that dies of the signal that asks it to drain had
    /// none.
    pub(crate) fn note_abandoned(&mut self) {
        if self.scope == ProcessScope::SameProgram {
            self.handled_stop_signal = Some(Signal::USR1.as_raw());
        }
    }

    /// Makes its entry in the record of running generations.
    pub(crate) fn record(&self, state: State) -> GenerationRecord {
        let since = since_epoch(self.since);
        GenerationRecord {
            number: self.number,
            pid: self.process.pid(),
            start_time: self.process.start_time(),
            has_workers: self.has_workers,
            state,
            socket: self.socket.clone(),
            config: self.config.clone(),
            noreuseport: self.noreuseport,
            binds_as: self.binds_as,
            hard_stop_after_ms: self.drain_times.hard_stop_after.map(|after| after.as_millis() as u64),
            grace_ms: self.drain_times.grace.map(|grace| grace.as_millis() as u64),
            stop: self.stop.clone(),
            since,
            end_is_recorded: self.end_is_recorded,
            retired: self.retired.map(|retired| since_epoch(SystemTime::now() - retired.elapsed())),
        }
    }

    /// The processes of this generation that may serve.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.scope.processes(self.process.pid())
    }

    /// All its processes.
    pub(crate) fn tree(&self) -> Vec<u32> {
        process::tree(self.process.pid())
    }

    /// Notes which processes own the listeners now. `sockets` are the sockets of its process tree.
    pub(crate) fn note_worker_processes(&mut self, sockets: &HashMap<u64, SocketOwner>) {
        let inodes = self.listeners.iter().map(|owned| owned.listener.inode).chain(self.sentinel);
        let owners = inodes.filter_map(|inode| sockets.get(&inode));
        let pids: HashSet<u32> = owners.map(|owner| owner.pid).filter(|pid| *pid != self.process.pid()).collect();
        self.worker_processes = pids.into_iter().filter_map(|pid| Some((pid, process::start_time(pid)?))).collect();
        self.has_workers |= !self.worker_processes.is_empty();
    }

    /// True while one of its processes has the sentinel listener, or one of the listeners that it was seen with.
    pub(crate) fn listens(&self) -> bool {
        let mut sockets = process::sockets_of(&self.processes());
        let inodes = self.listeners.iter().map(|owned| owned.listener.inode).chain(self.sentinel);
        inodes.into_iter().any(|inode| sockets.remove(&inode).is_some())
    }

    /// True while one of its processes waits for connections on one of its listeners.
    pub(crate) fn waits(&self) -> bool {
        let processes = self.processes();
        self.listeners.iter().any(|owned| process::waits_on(&processes, owned.listener.inode))
    }

    /// Notes the listeners that it may still have after an earlier daemon retired it. These are the listeners of the
    /// `serving` generation. They are also its own sockets from which connections were steered away, which are in no
    /// record. `sockets` are the sockets of its processes.
    pub(crate) fn note_listeners(
        &mut self,
        serving: &[Owned],
        machine: &[ListenSocket],
        sockets: &HashMap<u64, SocketOwner>,
    ) {
        let known: HashSet<u64> = serving.iter().map(|owned| owned.listener.inode).collect();
        let own = machine.iter().filter(|found| sockets.contains_key(&found.inode) && !known.contains(&found.inode));
        let own = own.map(|found| Owned {
            listener: Listener { endpoint: Endpoint::stream(found.address.clone()), inode: found.inode },
            role: Role::Traffic,
        });
        self.listeners = serving.iter().cloned().chain(own).collect();
    }

    /// True while one of its processes listens on anything.
    pub(crate) fn listens_somewhere(&self, machine: &[ListenSocket]) -> bool {
        let sockets = process::sockets_of(&self.processes());
        machine.iter().any(|found| sockets.contains_key(&found.inode))
    }

    /// Kills all its processes. Otherwise a worker whose master was killed might continue to accept connections.
    pub(crate) async fn kill(&self) {
        self.kill_now();
        // A process in an uninterruptible wait ends later. The daemon still follows it.
        let _ = tokio::time::timeout(KILL_TIMEOUT, self.process.ended()).await;
    }

    /// Kills all its processes without waiting for their end.
    pub(crate) fn kill_now(&self) {
        for pid in self.tree().into_iter().filter(|pid| *pid != self.process.pid()) {
            if let Some(start_time) = process::start_time(pid) {
                process::kill_if_same(pid, start_time, Signal::KILL);
            }
        }
        self.process.signal(Signal::KILL);
    }

    /// Reads what it has written while it is being started. The lines are kept for a receipt.
    pub(crate) fn read_start_lines(&mut self) {
        let lines = match self.process.try_ended() {
            Some(_) => self.last_log_lines(),
            None => self.new_log_lines(),
        };
        self.start_lines.extend(lines);
        let excess = self.start_lines.len().saturating_sub(MAX_START_LINES);
        self.start_lines.drain(..excess);
    }

    /// Forwards what it wrote while it was being started, now that it serves.
    pub(crate) fn log_start_lines(&mut self, service: &str) {
        self.read_start_lines();
        let number = self.number;
        std::mem::take(&mut self.start_lines).iter().for_each(|line| log::info!(target: service, "[{number}] {line}"));
    }

    /// The lines that it wrote on standard error since the last call.
    pub(crate) fn new_log_lines(&mut self) -> Vec<String> {
        self.log.as_mut().map(LogTail::new_lines).unwrap_or_default()
    }

    /// The lines that it wrote on standard error before it ended, since the last call. A last line without a line break
    /// is included.
    pub(crate) fn last_log_lines(&mut self) -> Vec<String> {
        self.log.as_mut().map(LogTail::last_lines).unwrap_or_default()
    }

    /// Open client connections that its processes hold; `None` when the kernel does not say.
    pub(crate) fn open_connections(&self) -> Option<u64> {
        let endpoints: Vec<Endpoint> = self.listeners.iter().map(|owned| owned.listener.endpoint.clone()).collect();
        open_connections(&self.processes(), &endpoints)
    }

    /// Removes its files once it has ended.
    pub(crate) fn clean_up(&self) {
        if let Some(files) = &self.files {
            files.remove();
        }
    }
}

/// Seconds since 1970.
pub(crate) fn since_epoch(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

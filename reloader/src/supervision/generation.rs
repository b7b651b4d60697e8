//! A generation: one run of the server.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use super::log_tail::LogTail;
use super::records::{Record, State};
use crate::haproxy::launch::Files;
use crate::kernel::sock_diag;
use crate::listener::Owned;
use crate::listener::{Address, Endpoint, SocketType};
use crate::process::{self, Handle};
use crate::reload::receipt::GenerationId;

/// A generation that the daemon follows.
#[derive(Debug)]
pub(crate) struct Generation {
    /// Its number.
    pub(crate) number: u64,
    /// Its root process.
    pub(crate) process: Handle,
    /// The processes that own the listeners, by pid and start time: they must not outlive the root unnoticed.
    pub(crate) leaves: Vec<(u32, u64)>,
    /// The stats socket it answers on.
    pub(crate) socket: PathBuf,
    /// The daemon's files for it; `None` when another supervisor started it.
    pub(crate) files: Option<Files>,
    /// What it was started from, for people.
    pub(crate) config: String,
    /// When it was started.
    pub(crate) since: SystemTime,
    /// When it began to serve, for reckoning.
    pub(crate) serving_since: Instant,
    /// When it was retired.
    pub(crate) retired: Option<Instant>,
    /// What it listens on, or did when it was retired.
    pub(crate) listeners: Vec<Owned>,
    /// Its standard error.
    pub(crate) log: Option<LogTail>,
}

impl Generation {
    /// A generation whose process was just started.
    pub(crate) fn started(number: u64, process: Handle, files: Files, config: String) -> Generation {
        Generation {
            number,
            process,
            leaves: Vec::new(),
            socket: files.socket.clone(),
            log: Some(LogTail::new(&files.log, false)),
            files: Some(files),
            config,
            since: SystemTime::now(),
            serving_since: Instant::now(),
            retired: None,
            listeners: Vec::new(),
        }
    }

    /// For receipts.
    pub(crate) fn id(&self) -> GenerationId {
        GenerationId { generation: self.number, pid: self.process.pid() }
    }

    /// For the record of running generations.
    pub(crate) fn record(&self, state: State) -> Record {
        let since = self.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Record {
            number: self.number,
            pid: self.process.pid(),
            start_time: self.process.start_time(),
            state,
            socket: self.socket.clone(),
            config: self.config.clone(),
            since,
        }
    }

    /// All its processes.
    pub(crate) fn tree(&self) -> Vec<u32> {
        process::tree(self.process.pid())
    }

    /// Notes which processes own the listeners now.
    pub(crate) fn note_leaves(&mut self) {
        let others = self.tree().into_iter().filter(|pid| *pid != self.process.pid());
        self.leaves = others.filter_map(|pid| Some((pid, process::start_time(pid)?))).collect();
    }

    /// Lines it wrote on standard error since the last call.
    pub(crate) fn new_log_lines(&mut self) -> Vec<String> {
        self.log.as_mut().map(LogTail::new_lines).unwrap_or_default()
    }

    /// Open client connections that its processes hold; `None` when the kernel does not say.
    pub(crate) fn open_connections(&self) -> Option<u64> {
        let endpoints: Vec<Endpoint> = self.listeners.iter().map(|owned| owned.listener.endpoint.clone()).collect();
        open_connections(self.process.pid(), &endpoints)
    }

    /// Removes its files once it has ended.
    pub(crate) fn clean_up(&self) {
        if let Some(files) = &self.files {
            files.remove();
        }
    }
}

/// Connections accepted from `endpoints` that the tree of `root` holds; `None` when the kernel does not say.
pub(crate) fn open_connections(root: u32, endpoints: &[Endpoint]) -> Option<u64> {
    let sockets = process::sockets_of(&process::tree(root));
    let mut by_port: HashMap<u16, Vec<&Endpoint>> = HashMap::new();
    let mut unix_addresses = HashSet::new();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.socket_type == SocketType::Stream) {
        match &endpoint.address {
            Address::Inet(address) => by_port.entry(address.port()).or_default().push(endpoint),
            unix => drop(unix_addresses.insert(unix)),
        }
    }
    let served =
        |local: SocketAddr| by_port.get(&local.port()).is_some_and(|some| some.iter().any(|e| e.covers(local)));
    let inet = sock_diag::connections(0).ok()?;
    let inet = inet.iter().filter(|found| sockets.contains_key(&found.inode) && served(found.local)).count();
    let unix = sock_diag::unix_connections().ok()?;
    let unix = unix.iter().filter(|(inode, address)| sockets.contains_key(inode) && unix_addresses.contains(address));
    Some((inet + unix.count()) as u64)
}

//! HAProxy in master-worker mode under its own unit, as a kind of server: what the daemon knows of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Check, HaproxyServer};
use crate::config::Haproxy;
use crate::haproxy::binds::Binds;
use crate::haproxy::scan;
use crate::haproxy::version::Version;
use crate::process::{self, Handle};

/// How often a worker is looked for while none is known and nothing is in custody.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Beginnings of variables that are not taken over: HAProxy's own for its workers, and those of the dynamic loader (ld.so(8)).
const NOT_TAKEN: [&str; 4] = ["HAPROXY_MWORKER", "LD_", "GLIBC_TUNABLES", "GCONV_PATH"];

/// A worker that was found, and what is known through it.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Its master.
    pub(crate) master: Handle,
    /// Its version in HAProxy's own words.
    pub(crate) version: Option<Version>,
    /// The paths on which it may answer: the stats sockets of the configuration, and the one on which it answered.
    pub(crate) sockets: Vec<PathBuf>,
}

/// A HAProxy under its own unit.
#[derive(Debug)]
pub(crate) struct CompanionServer {
    haproxy: HaproxyServer,
    worker: Option<Worker>,
    /// Why no worker is there.
    absent: Option<String>,
    /// The `bind` lines that the worker has read, where they are known.
    binds: Option<Binds>,
    /// A stats socket of the configuration on disk exports listeners.
    exposes: bool,
    /// At the last look, the worker was not found where it was seen before.
    was_missing: bool,
    /// At the last look the worker had closed a listener.
    has_closed: bool,
    next_look: Instant,
}

impl CompanionServer {
    pub(super) fn new(haproxy: HaproxyServer) -> CompanionServer {
        CompanionServer {
            haproxy,
            worker: None,
            absent: None,
            binds: None,
            exposes: false,
            was_missing: false,
            has_closed: false,
            next_look: Instant::now(),
        }
    }

    pub(super) fn haproxy(&self) -> &HaproxyServer {
        &self.haproxy
    }

    pub(super) fn haproxy_mut(&mut self) -> &mut HaproxyServer {
        &mut self.haproxy
    }

    /// The `[haproxy]` table.
    pub(crate) fn config(&self) -> &Haproxy {
        self.haproxy.config()
    }

    /// The master of the worker that was seen last.
    pub(crate) fn master(&self) -> Option<&Handle> {
        self.worker.as_ref().map(|worker| &worker.master)
    }

    /// The version of the worker that was seen last.
    pub(crate) fn running_version(&self) -> Option<Version> {
        self.worker.as_ref().and_then(|worker| worker.version)
    }

    /// `sockets`, and those on which the worker that was seen last may answer.
    pub(crate) fn with_known_sockets(&self, mut sockets: Vec<PathBuf>) -> Vec<PathBuf> {
        let known = self.worker.iter().flat_map(|worker| &worker.sockets);
        let further: Vec<PathBuf> = known.filter(|socket| !sockets.contains(socket)).cloned().collect();
        sockets.extend(further);
        sockets
    }

    /// Why no worker is followed, as a sentence. A worker may have been found and not been taken over.
    pub(crate) fn why_not_followed(&self) -> &str {
        self.absent.as_deref().unwrap_or("no worker is followed yet (`reloader history` has the last attempt)")
    }

    /// The `bind` lines that the worker has read, where they are known.
    pub(crate) fn binds(&self) -> Option<&Binds> {
        self.binds.as_ref()
    }

    /// A stats socket of the configuration on disk exported listeners when it was read last.
    pub(crate) fn exposes(&self) -> bool {
        self.exposes
    }

    /// Notes a worker that serves.
    pub(crate) fn set_worker(&mut self, worker: Worker) {
        self.worker = Some(worker);
        self.absent = None;
    }

    /// Notes why no worker was found; `None` where one was found. Returns true for a reason other than the last one.
    pub(crate) fn set_absent(&mut self, absent: Option<String>) -> bool {
        let is_news = absent.is_some() && absent != self.absent;
        self.absent = absent;
        is_news
    }

    /// Notes the `bind` lines that the worker has read; `None` where they are not known.
    pub(crate) fn set_binds(&mut self, binds: Option<Binds>) {
        self.binds = binds;
    }

    /// Notes whether a stats socket of the configuration on disk exports listeners.
    pub(crate) fn set_exposes(&mut self, exposes: bool) {
        self.exposes = exposes;
    }

    /// Whether a worker that is `missing` is to be looked for now. `hurries` where clients may wait for it.
    pub(crate) fn is_due(&mut self, missing: bool, hurries: bool, now: Instant) -> bool {
        if !missing {
            self.was_missing = false;
            return false;
        }
        if !hurries && now < self.next_look {
            return false;
        }
        self.next_look = now + IDLE_POLL_INTERVAL;
        true
    }

    /// The worker was looked for and is still missing. True from the second time on.
    pub(crate) fn note_missing(&mut self) -> bool {
        std::mem::replace(&mut self.was_missing, true)
    }

    /// The worker `has_closed` a listener by itself. True when it is seen for the second time in a row: at the first it may be a worker that
    /// is being retired.
    pub(crate) fn note_closing(&mut self, has_closed: bool) -> bool {
        let confirmed = std::mem::replace(&mut self.has_closed, has_closed) && has_closed;
        if confirmed {
            self.has_closed = false;
        }
        confirmed
    }

    /// How the master is asked to reload, for people.
    pub(crate) fn way(&self) -> String {
        match &self.config().master_cli {
            Some(path) => format!("`reload` on {}", path.display()),
            None => "SIGUSR2".into(),
        }
    }

    /// What `status` says about this mode.
    pub(crate) fn note(&self) -> String {
        let master = match self.master() {
            Some(master) => format!("its master (process {})", master.pid()),
            None => "its master".into(),
        };
        format!(
            "companion mode: HAProxy belongs to its own unit, and {master} is told to reload by {}; it passes the sockets, and \
             retires the old worker, by itself",
            self.way()
        )
    }

    /// The check of the configuration runs in the master's environment, from which the configuration may take values.
    pub(super) fn check(&self) -> Check {
        Check { environment: self.environment(), ..self.haproxy.check() }
    }

    /// The environment in which the master reads its configuration: that of its unit, without what HAProxy adds for itself, and without
    /// what would make a program that root runs load other code. Only the environment of root's process is believed.
    fn environment(&self) -> Option<Vec<String>> {
        let master = self.master().filter(|master| process::user_of(master.pid()) == Some(0))?;
        let mut entries = process::whole_environment(master.pid());
        // The pid belonged to the master while the environment was read.
        if master.try_ended().is_some() {
            return None;
        }
        let is_kept = |entry: &String| !NOT_TAKEN.iter().any(|beginning| entry.starts_with(beginning));
        entries.retain(is_kept);
        (!entries.is_empty()).then_some(entries)
    }
}

/// Whether a stats socket of these configuration files exports listeners.
pub(crate) fn exposes(config: &[PathBuf]) -> bool {
    scan::facts(&scan::read(config).unwrap_or_default()).exposes
}

/// The stats sockets that these configuration files name.
pub(crate) fn stats_sockets(config: &[PathBuf]) -> Vec<PathBuf> {
    scan::facts(&scan::read(config).unwrap_or_default()).stats_sockets
}

//! What the daemon knows of a HAProxy that runs under its own unit.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Supervisor;
use crate::config::Haproxy;
use crate::gate::hold::Backend;
use crate::gate::steer::Steer;
use crate::haproxy::binds::Binds;
use crate::haproxy::scan;
use crate::haproxy::version::Version;
use crate::plan::companion::{self, CompanionPlanInputs};
use crate::plan::{Planned, Present};
use crate::process::{self, Handle};
use crate::receipt::Rung;
use crate::sockets::custody::Followed;

/// How often a worker is looked for while nothing waits for it.
const UNHURRIED: Duration = Duration::from_secs(1);

/// The state of companion mode.
#[derive(Debug)]
pub(crate) struct Companion {
    /// As configured.
    pub(crate) haproxy: Haproxy,
    /// The master, once it was found.
    pub(crate) master: Option<Handle>,
    /// Why none is found.
    pub(crate) absent: Option<String>,
    /// Where the stats sockets were when a worker was found last: the configuration on disk may name others by now.
    pub(crate) sockets: Vec<PathBuf>,
    /// The worker's version.
    pub(crate) version: Option<Version>,
    /// What the configuration of the serving worker binds; `None` where it cannot be known.
    pub(crate) binds: Option<Binds>,
    /// The serving worker was not where it was seen last, and no other was found: at the last look.
    was_missing: bool,
    /// The serving worker had closed listeners by itself: at the last look.
    has_closed: bool,
    /// When one is looked for again, where there is no hurry.
    next_look: Instant,
}

/// Beginnings of variables: HAProxy's own for its workers, and the dynamic loader's (ld.so(8)).
const NOT_TAKEN: [&str; 4] = ["HAPROXY_MWORKER", "LD_", "GLIBC_TUNABLES", "GCONV_PATH"];

impl Companion {
    /// Nothing was looked for yet.
    pub(crate) fn new(haproxy: Haproxy) -> Companion {
        Companion {
            haproxy,
            master: None,
            absent: None,
            sockets: Vec::new(),
            version: None,
            binds: None,
            was_missing: false,
            has_closed: false,
            next_look: Instant::now(),
        }
    }

    /// How its master is told to reload, for people.
    pub(crate) fn way(&self) -> String {
        match &self.haproxy.master_cli {
            Some(path) => format!("`reload` on {}", path.display()),
            None => "SIGUSR2".into(),
        }
    }

    /// The environment in which the master reads its configuration: that of its unit, without what HAProxy adds for itself, and
    /// without what would make a program that root runs load other code. Only root's is believed.
    pub(crate) fn environment(&self) -> Option<Vec<String>> {
        let master = self.master.as_ref().filter(|master| process::user_of(master.pid()) == Some(0))?;
        let mut entries = process::whole_environment(master.pid());
        // The pid was the master's while it was read.
        if master.try_ended().is_some() {
            return None;
        }
        let is_kept = |entry: &String| !NOT_TAKEN.iter().any(|beginning| entry.starts_with(beginning));
        entries.retain(is_kept);
        (!entries.is_empty()).then_some(entries)
    }

    /// What the operator should know about this mode at any time.
    pub(crate) fn note(&self) -> String {
        let master = match &self.master {
            Some(master) => format!("its master (process {})", master.pid()),
            None => "its master".into(),
        };
        format!(
            "companion mode: HAProxy belongs to its own unit, and {master} is told to reload by {}; it passes the sockets, and \
             retires the old worker, by itself",
            self.way()
        )
    }

    /// What the next reload would do.
    pub(super) fn plan(&self, present: &[Present], supervisor: &Supervisor) -> Vec<Planned> {
        let strategy = supervisor.config.reload.strategy;
        let holds = supervisor.gates.best(strategy).ok().map(|backend| match backend {
            Backend::Ebpf => Rung::HeldEbpf,
            Backend::Qdisc => Rung::HeldQdisc,
        });
        let exposes = scan::facts(&scan::read(&self.haproxy.config).unwrap_or_default()).exposes;
        let migrates = supervisor.steer.as_ref().is_some_and(Steer::migrates);
        // With no worker there is nothing to plan for.
        let Some(haproxy) = self.version else { return Vec::new() };
        companion::plan(present, CompanionPlanInputs { haproxy, exposes, strategy, migrates, holds })
    }
}

impl Supervisor {
    /// The companion's worker is not where it was seen last, or there is none, and it is time to look for another.
    pub(crate) fn misses_its_worker(&mut self) -> bool {
        let missing = match &self.serving {
            Some(serving) => {
                let stays =
                    |inode| self.custody.owner(inode).is_some_and(|owner| process::socket_at(owner) == Some(inode));
                !serving.sentinel.map_or_else(|| self.custody.is_still_owned(), stays)
            }
            None => true,
        };
        let hurries = self.serving.is_some() || !self.custody.is_empty();
        let Some(companion) = &mut self.companion else { return false };
        if !missing {
            companion.was_missing = false;
            return false;
        }
        let now = Instant::now();
        if !hurries && now < companion.next_look {
            return false;
        }
        companion.next_look = now + UNHURRIED;
        true
    }

    /// The worker of a companion lives and serves no more: its master has retired it.
    pub(crate) fn worker_has_let_go(&self) -> bool {
        self.companion.is_some() && !self.custody.is_still_owned()
    }

    /// No worker was found in the place of the missing one. Between two of them nobody may answer for a moment, so it takes two
    /// looks to say that none serves.
    pub(crate) fn worker_is_missing(&mut self) {
        let Some(companion) = &mut self.companion else { return };
        if std::mem::replace(&mut companion.was_missing, true) {
            self.follow_custody();
        }
    }

    /// What the worker closed by itself leaves custody, as it does in supervised mode; a worker that is being retired closes
    /// everything, and that is another matter.
    pub(super) fn follow_closings(&mut self) {
        let Some(serving) = self.serving.as_ref().filter(|serving| serving.process.try_ended().is_none()) else {
            return;
        };
        let root = serving.process.pid();
        let mut custody = self.custody.clone();
        let closed = matches!(custody.follow(serving.sentinel, || process::family(root)), Followed::Closed(_));
        let Some(companion) = &mut self.companion else { return };
        if std::mem::replace(&mut companion.has_closed, closed) && closed {
            companion.has_closed = false;
            self.follow_custody();
        }
    }
}

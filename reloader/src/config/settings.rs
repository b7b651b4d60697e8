//! Holds the configuration as the rest of the crate uses it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::service::{HAPROXY, Service};
use super::span::{Limit, SpreadTime};
use super::values::{AtMaxDraining, LastKnownGood, Mode, OnStop, Overlap, Require, Strategy};

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The control socket.
    pub control_socket: PathBuf,
    /// The group that may use the control socket.
    pub control_group: String,
    /// The directory of sockets, locks and records of running generations.
    pub runtime_dir: PathBuf,
    /// The directory of receipts and of the last-known-good configuration.
    pub state_dir: PathBuf,
    /// What SIGTERM does with the server.
    pub on_stop: OnStop,
    /// HAProxy. `None` if the file describes other servers only.
    pub haproxy: Option<Haproxy>,
    /// The other servers, by name.
    pub services: BTreeMap<String, Service>,
    /// The `[reload]` table.
    pub reload: Reload,
    /// The `[hold]` table.
    pub hold: Hold,
}

/// The `[haproxy]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Haproxy {
    /// The program.
    pub binary: PathBuf,
    /// The configuration files of HAProxy, or directories of them.
    pub config: Vec<PathBuf>,
    /// Additional arguments.
    pub args: Vec<String>,
    /// Which process runs HAProxy.
    pub mode: Mode,
    /// The socket of the CLI of HAProxy's master (`-S`), in companion mode. `None`: a reload sends SIGUSR2 to the
    /// master.
    pub master_cli: Option<PathBuf>,
    /// The file that contains the daemon's pid. `None`: none is kept.
    pub pid_file: Option<PathBuf>,
    /// What is kept of the last configuration with which HAProxy served.
    pub last_known_good: LastKnownGood,
    /// Whether it is let bind beside its old generation where its configuration says `noreuseport`.
    pub overlap: Overlap,
    /// The command line of HAProxy's unit, from which the program, the files and the arguments are read at each reload.
    pub unit_command: Option<UnitCommand>,
    /// Additional variables of HAProxy's environment, from the environment files.
    pub environment: BTreeMap<String, String>,
    /// The services before it in `reload --all`.
    pub after: Vec<String>,
}

/// The command line of a unit with its variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitCommand {
    /// The value of `ExecStart=`.
    pub line: String,
    /// The values of `EnvironmentFile=`.
    pub environment_files: Vec<String>,
    /// The values of variables that neither those files nor the program's own environment have: a command in a shell has not the unit's
    /// environment.
    pub default_environment: BTreeMap<String, String>,
}

/// The `[reload]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    /// Which rungs a reload may use.
    pub strategy: Strategy,
    /// Whether an unproven reload is allowed.
    pub require: Require,
    /// How long a new generation may take to become ready.
    pub start_timeout: Duration,
    /// How long a start may take while nothing serves and there is nothing else to start. At least `start_timeout` is given.
    pub first_start_timeout: Duration,
    /// How long a reload waits for the closed queues of the old generation to drain.
    pub drain_timeout: Duration,
    /// The shortest time between two reloads.
    pub min_interval: Duration,
    /// When a draining generation is ended although it still has connections.
    pub hard_stop_after: Limit,
    /// How many generations may drain at once. 0: any number.
    pub max_draining: usize,
    /// What a reload does while `max_draining` generations drain.
    pub at_max_draining: AtMaxDraining,
    /// How long custody is kept while nothing serves. `None` derives it from the measured start time.
    pub custody_max: Option<Duration>,
    /// The `close-spread-time` that the daemon gives to HAProxy when HAProxy's configuration has none.
    pub close_spread_time: SpreadTime,
    /// Whether a tc program counts SYNs during reloads.
    pub count_syns: bool,
    /// How long the connections may take by which the daemon tests changed listeners after a reload. `None`: it makes none.
    pub probe_connect: Option<Duration>,
}

/// The `[hold]` table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// How long a hold may last.
    pub max: Duration,
    /// The room for parked SYNs, in bytes.
    pub capacity: u32,
}

impl Config {
    /// The names of all services, HAProxy first.
    pub fn names(&self) -> Vec<String> {
        let haproxy = self.haproxy.iter().map(|_| HAPROXY.to_owned());
        haproxy.chain(self.services.keys().cloned()).collect()
    }

    /// The configuration for one service: with its own strategy, and in companion mode without the limits on draining.
    pub fn for_service(&self, name: &str) -> Config {
        let mut own = self.clone();
        if let Some(service) = self.services.get(name) {
            own.reload.strategy = service.strategy(self.reload.strategy);
        }
        // HAProxy's master ends its workers by itself.
        if name == HAPROXY && self.haproxy.as_ref().is_some_and(|haproxy| haproxy.mode == Mode::Companion) {
            own.reload.hard_stop_after = Limit::Never;
            own.reload.at_max_draining = AtMaxDraining::Wait;
        }
        own
    }

    /// The pid file of a service.
    pub fn pid_file(&self, name: &str) -> Option<&Path> {
        match self.services.get(name) {
            Some(service) => service.pid_file.as_deref(),
            None => self.haproxy.as_ref().filter(|_| name == HAPROXY)?.pid_file.as_deref(),
        }
    }

    /// The directory of the files of one service's generations. The files of HAProxy's generations are in runtime-dir
    /// itself.
    pub fn place(&self, name: &str) -> PathBuf {
        if name == HAPROXY { self.runtime_dir.clone() } else { self.runtime_dir.join(own_directory(name)) }
    }
}

/// The directory of a service's generations, below runtime-dir.
pub(super) fn own_directory(name: &str) -> PathBuf {
    Path::new("services").join(name)
}

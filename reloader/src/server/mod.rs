//! What a supervisor runs: HAProxy, or another server that the configuration describes. Each kind says how a generation is started,
//! how it shows that it is ready, what it listens on, and how it is asked to end.

mod haproxy;
mod retire_request;
mod service;

use std::collections::HashMap;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::{Config, HAPROXY, Stop};
use crate::fs::generation_files::GenerationFiles;
use crate::haproxy::broker::Broker;
use crate::haproxy::inspect::stats_socket_inode;
use crate::haproxy::version::VersionError;
use crate::kernel::sock_diag::ListenSocket;
use crate::model::listener::{Endpoint, Owned};
use crate::process::readiness::NotReady;
use crate::process::{Handle, ProcessScope, SocketOwner};
use crate::sockets::custody::{Custody, KeptSocket};
use crate::sockets::inspection::{InspectError, Inspection};
use crate::sys::Inheritance;

pub(crate) use haproxy::HaproxyServer;
pub(crate) use retire_request::RetireRequest;
pub(crate) use service::ServiceServer;

/// A server of one kind.
#[derive(Debug)]
pub(crate) enum Server {
    /// The kind that the daemon knows best.
    Haproxy(HaproxyServer),
    /// Any other.
    Service(ServiceServer),
}

/// What a server can do with listeners, as the plan asks it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Why it cannot be given listeners; `None` where it can.
    pub why_not_passed: Option<String>,
    /// It takes over the socket of a single IPv6 address only where its bind says `v6only`.
    pub wants_v6only: bool,
}

/// What is known before the process starts.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// What this server can do with listeners.
    pub(crate) capabilities: Capabilities,
    /// No other socket can be bound beside its own.
    pub(crate) binds_alone: bool,
    /// It is the last-known-good configuration.
    pub(crate) is_known_good: bool,
    /// What of it no reload can keep, in a sentence.
    pub(crate) ends_by_reload: Option<String>,
    spec: LaunchSpec,
}

#[derive(Debug)]
enum LaunchSpec {
    Haproxy(haproxy::LaunchSpec),
    Service(service::LaunchSpec),
}

/// What a start gets besides its recipe.
pub(crate) struct LaunchContext<'a> {
    /// The files of the new generation.
    pub(crate) files: &'a GenerationFiles,
    /// What it may be given.
    pub(crate) custody: Custody,
    /// What every child gets.
    pub(crate) inheritance: &'a Inheritance,
    /// HAProxy's `close-spread-time`.
    pub(crate) spread: Option<&'a str>,
}

/// A process that was just started.
pub(crate) struct Launched {
    /// Its root process.
    pub(crate) process: Handle,
    /// What it was started from, for people.
    pub(crate) label: String,
    /// What it was given by descriptor.
    pub(crate) given: Vec<KeptSocket>,
    /// How it will show that it is ready.
    pub(crate) readiness: Readiness,
    /// Sockets are on offer at the broker.
    pub(crate) offers: bool,
}

/// How a new generation shows that it is ready.
pub(crate) enum Readiness {
    /// Its private stats socket answers.
    Haproxy(crate::haproxy::appearance::Appearance),
    /// As its configuration says.
    Service(service::Readiness),
}

impl Readiness {
    /// Waits until it is ready.
    pub(crate) async fn reached(&self) -> Result<(), NotReady> {
        match self {
            Readiness::Haproxy(appearance) => appearance.answered().await,
            Readiness::Service(readiness) => readiness.reached().await,
        }
    }

    /// What it lacks at this moment, as a sentence, where that can be told.
    pub(crate) fn why_not_ready(&self) -> Option<String> {
        match self {
            Readiness::Haproxy(_) => None,
            Readiness::Service(readiness) => readiness.why_not_ready(),
        }
    }
}

impl Server {
    /// The server called `name`, with its place below runtime-dir; `None` where the configuration has none of that name.
    pub(crate) fn new(config: &Config, name: &str) -> io::Result<Option<Server>> {
        let place = config.place(name);
        if let Some(haproxy) = config.haproxy.as_ref().filter(|_| name == HAPROXY) {
            let broker = Broker::listen(&place)?;
            return Ok(Some(Server::Haproxy(HaproxyServer::new(haproxy.clone(), broker))));
        }
        let Some(service) = config.services.get(name) else { return Ok(None) };
        make_place(&place)?;
        Ok(Some(Server::Service(ServiceServer::new(service.clone()))))
    }

    /// Makes again what it has in its place below runtime-dir.
    pub(crate) fn restore_files(&mut self, place: &Path) -> io::Result<()> {
        match self {
            Server::Haproxy(server) => server.broker = Broker::listen(place)?,
            Server::Service(_) => make_place(place)?,
        }
        Ok(())
    }

    /// Takes what the configuration says of it now.
    pub(crate) fn configure(&mut self, config: &Config, name: &str) {
        match self {
            Server::Haproxy(server) => server.config = config.haproxy.clone().unwrap_or_else(|| server.config.clone()),
            Server::Service(server) => {
                server.config = config.services.get(name).cloned().unwrap_or_else(|| server.config.clone());
            }
        }
    }

    /// HAProxy, where it is that.
    pub(crate) fn haproxy(&self) -> Option<&HaproxyServer> {
        match self {
            Server::Haproxy(server) => Some(server),
            Server::Service(_) => None,
        }
    }

    /// What the next generation can do with listeners.
    pub(crate) fn capabilities(&mut self) -> Result<Capabilities, VersionError> {
        match self {
            Server::Haproxy(server) => server.version().map(Capabilities::from),
            Server::Service(server) => Ok(server.capabilities()),
        }
    }

    /// Whether the next generation could be given a listener there.
    pub(crate) fn can_be_given(&mut self, endpoint: &Endpoint) -> bool {
        match self {
            Server::Haproxy(server) => server.version().map_or(true, |version| version.passes_sockets()),
            Server::Service(server) => server.can_be_given(endpoint),
        }
    }

    /// Whether a listener is in the way of the next generation, beside which none can be bound; `None` where only HAProxy knows what it
    /// will bind.
    pub(crate) fn is_blocked_by(&self, endpoint: &Endpoint, in_custody: bool) -> Option<bool> {
        match self {
            Server::Haproxy(_) => None,
            Server::Service(server) => Some(server.is_blocked_by(endpoint, in_custody)),
        }
    }

    /// Which processes of a generation's tree may serve.
    pub(crate) fn process_scope(&self) -> ProcessScope {
        match self {
            Server::Haproxy(_) => ProcessScope::SameProgram,
            Server::Service(_) => ProcessScope::All,
        }
    }

    /// Reads the configuration and refuses what cannot become a generation.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn prepare(&mut self, known_good: Option<Vec<PathBuf>>) -> Result<Prepared, String> {
        match self {
            Server::Haproxy(server) => server.prepare(known_good),
            Server::Service(server) => Ok(server.prepare()),
        }
    }

    /// Starts a process. Whatever fails, nothing runs, and none of its files is left.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn launch(&mut self, prepared: &Prepared, ways: LaunchContext<'_>) -> Result<Launched, String> {
        let files = ways.files;
        let launched = match (self, &prepared.spec) {
            (Server::Haproxy(server), LaunchSpec::Haproxy(recipe)) => server.launch(recipe, ways),
            (Server::Service(server), LaunchSpec::Service(recipe)) => server.launch(recipe, ways),
            _ => Err("internal error: the recipe is for another kind of server".into()),
        };
        launched.inspect_err(|_| files.remove())
    }

    /// Nothing is on offer any more. True where it was taken, or where nothing was on offer.
    pub(crate) fn withdraw(&mut self) -> bool {
        match self {
            Server::Haproxy(server) => server.broker.withdraw(),
            Server::Service(_) => true,
        }
    }

    /// What a generation listens on; `socket` is that between it and the daemon.
    pub(crate) async fn inspect(
        &mut self,
        process: &Handle,
        socket: &Path,
        place: &Path,
    ) -> Result<Inspection, InspectError> {
        match self {
            Server::Haproxy(server) => server.inspect(process, socket, place).await,
            Server::Service(server) => server.inspect(process).await,
        }
    }

    /// A listener that shows that a generation serves; `socket` is that between it and the daemon.
    pub(crate) fn sentinel(
        &self,
        socket: &Path,
        machine: &[ListenSocket],
        sockets: &HashMap<u64, SocketOwner>,
    ) -> Option<u64> {
        match self {
            Server::Haproxy(_) => stats_socket_inode(socket, machine, sockets),
            Server::Service(_) => machine.iter().map(|found| found.inode).find(|inode| sockets.contains_key(inode)),
        }
    }

    /// What listens at this moment where a generation would; empty where only HAProxy knows that, or the kernel does not say.
    pub(crate) fn listeners_at_its_addresses(&self) -> Vec<Owned> {
        match self {
            Server::Haproxy(_) => Vec::new(),
            Server::Service(server) => server.listeners_at_its_addresses(),
        }
    }

    /// Where it is to serve, as far as reloader's own configuration says.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        match self {
            Server::Haproxy(_) => Vec::new(),
            Server::Service(server) => server.config.listen.iter().cloned().map(Endpoint::stream).collect(),
        }
    }

    /// Tells a generation to close its listeners, to finish what it has, and to end.
    pub(crate) fn retire(&self, ending: &RetireRequest) {
        match (self, &ending.stop) {
            (Server::Haproxy(server), _) => server.retire(ending),
            (Server::Service(server), None) => server.retire(&ending.process, &server.config.stop),
            (Server::Service(server), Some(stop)) => server.retire(&ending.process, stop),
        }
    }

    /// Whether an old generation that still listens is told again: of others than HAProxy a second signal may mean "at once".
    pub(crate) fn may_be_asked_twice(&self) -> bool {
        matches!(self, Server::Haproxy(_))
    }

    /// How the next generation will be asked to end.
    pub(crate) fn stop(&self) -> Option<Stop> {
        match self {
            Server::Haproxy(_) => None,
            Server::Service(server) => Some(server.config.stop.clone()),
        }
    }

    /// Where the next generation must serve and does not, as a sentence.
    pub(crate) fn missing_addresses(&self, owned: &[Owned]) -> Option<String> {
        match self {
            Server::Haproxy(_) => None,
            Server::Service(server) => server.missing_addresses(owned),
        }
    }

    /// Whether a generation that was never proven serves: somebody waits on each of its sockets.
    pub(crate) fn is_attended(&self, root: u32) -> bool {
        match self {
            Server::Haproxy(_) => true,
            Server::Service(server) => service::is_attended(root, &server.config.listen),
        }
    }

    /// It is not to be started again: what the daemon made for its clients, and has in custody, is removed.
    pub(crate) fn leave(&self, custody: &Custody) {
        match self {
            Server::Haproxy(_) => {}
            Server::Service(server) => server.leave(custody),
        }
    }

    /// How its configuration is checked.
    pub(crate) fn check(&self) -> Option<Check> {
        match self {
            Server::Haproxy(server) => Some(server.check()),
            Server::Service(server) => server.check(),
        }
    }
}

/// Entered by all: a service that is another user's says there that it is ready.
fn make_place(place: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).create(place)?;
    // Whatever the umask is.
    for directory in place.ancestors().take(2) {
        std::fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// A command that says whether a configuration is good.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    /// The program and its arguments.
    pub(crate) words: Vec<std::ffi::OsString>,
    /// Who refuses, for people.
    pub(crate) who: String,
    /// `NAME=VALUE`; `None` for the daemon's own environment.
    pub(crate) environment: Option<Vec<String>>,
}

impl Check {
    /// Runs it; what it said when it refuses.
    pub(crate) async fn run(&self) -> Result<(), Vec<String>> {
        let mut command = std::process::Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        if let Some(environment) = &self.environment {
            command.env_clear().envs(environment.iter().filter_map(|entry| entry.split_once('=')));
        }
        crate::process::run_to_success(&mut command).await
    }
}

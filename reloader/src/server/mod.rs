//! Runs servers of three kinds: HAProxy that the daemon starts, HAProxy under a master of its own unit, and any other server that the
//! configuration describes. Each kind says how a generation is started, how it shows that it is ready, what it listens on, and how it
//! is asked to end. The rest of the daemon asks `Server` what a kind does. It asks which kind only for a companion, whose reload has an order of
//! its own.

mod capabilities;
mod check;
mod companion;
mod haproxy;
mod launch;
mod nginx;
pub(crate) mod proxy_protocol;
mod questions;
mod refusal;
mod retire_request;
mod service;
mod signal_refusal;

use std::collections::HashMap;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::config::{Config, HAPROXY, Haproxy, Mode, Stop};
use crate::haproxy::broker::Broker;
use crate::haproxy::inspect::stats_socket_inode;
use crate::haproxy::runtime_api;
use crate::haproxy::version::VersionError;
use crate::kernel::sock_diag::ListenSocket;
use crate::model::listener::{Endpoint, Owned};
use crate::process::{Handle, SocketOwner};
use crate::receipt::{Failure, ReasonCode};
use crate::sockets::custody::{Custody, KeptSocket};
use crate::sockets::inspection::{InspectError, Inspection};

pub use capabilities::Capabilities;
pub(crate) use check::Check;
pub(crate) use companion::{CompanionServer, Worker, exposes, stats_sockets};
pub(crate) use haproxy::HaproxyServer;
pub(crate) use launch::{Entrance, LaunchContext, Launched, Prepared, ReadByServer, Readiness};
pub(crate) use refusal::unknown_version;
pub(crate) use retire_request::RetireRequest;
pub(crate) use service::ServiceServer;

/// A server of one kind.
#[derive(Debug)]
pub(crate) enum Server {
    /// HAProxy, started by the daemon.
    Haproxy(HaproxyServer),
    /// HAProxy in master-worker mode, which its own unit starts.
    Companion(CompanionServer),
    /// Any other server.
    Service(ServiceServer),
}

impl Server {
    /// The server called `name`, with its directory below runtime-dir; `None` where the configuration has none of that name.
    ///
    /// # Errors
    /// Where the directory, or the broker's socket in it, cannot be created.
    pub(crate) fn new(config: &Config, name: &str) -> io::Result<Option<Server>> {
        let place = config.place(name);
        if let Some(haproxy) = config.haproxy.as_ref().filter(|_| name == HAPROXY) {
            let server = HaproxyServer::new(haproxy.clone(), Broker::listen(&place)?, config.reload.start_timeout);
            return Ok(Some(match haproxy.mode {
                Mode::Supervised => Server::Haproxy(server),
                Mode::Companion => Server::Companion(CompanionServer::new(server)),
            }));
        }
        let Some(service) = config.services.get(name) else { return Ok(None) };
        create_service_dir(&place)?;
        Ok(Some(Server::Service(ServiceServer::new(name, service.clone()))))
    }

    /// Creates again the files that the server has in its directory below runtime-dir.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn restore_files(&mut self, place: &Path) -> io::Result<()> {
        match self {
            Server::Haproxy(server) => server.restore_broker(place),
            Server::Companion(companion) => companion.haproxy_mut().restore_broker(place),
            Server::Service(_) => create_service_dir(place),
        }
    }

    /// Takes over the settings that the configuration now has for this server.
    pub(crate) fn configure(&mut self, config: &Config, name: &str) {
        match self {
            Server::Haproxy(server) => server.configure(config),
            Server::Companion(companion) => companion.haproxy_mut().configure(config),
            Server::Service(server) => server.configure(config, name),
        }
    }

    /// The companion, where this server is one.
    pub(crate) fn companion(&self) -> Option<&CompanionServer> {
        match self {
            Server::Companion(companion) => Some(companion),
            Server::Haproxy(_) | Server::Service(_) => None,
        }
    }

    /// As [`companion`](Self::companion), to change what is known of it.
    pub(crate) fn companion_mut(&mut self) -> Option<&mut CompanionServer> {
        match self {
            Server::Companion(companion) => Some(companion),
            Server::Haproxy(_) | Server::Service(_) => None,
        }
    }

    fn haproxy(&self) -> Option<&HaproxyServer> {
        match self {
            Server::Haproxy(server) => Some(server),
            Server::Companion(companion) => Some(companion.haproxy()),
            Server::Service(_) => None,
        }
    }

    /// What the next generation can do with listeners. A HAProxy whose program file was replaced is asked which version it is.
    ///
    /// # Errors
    /// Where HAProxy does not say which version it is.
    pub(crate) async fn refresh_capabilities(&self) -> Result<Capabilities, VersionError> {
        match self {
            Server::Service(server) => Ok(server.capabilities()),
            Server::Haproxy(server) => server.refresh_version().await.map(Capabilities::from),
            Server::Companion(companion) => companion.haproxy().refresh_version().await.map(Capabilities::from),
        }
    }

    /// What the next generation can do with listeners, as far as it was found out last; `None` where HAProxy has not said which
    /// version it is.
    pub(crate) fn capabilities(&self) -> Option<Capabilities> {
        match self {
            Server::Service(server) => Some(server.capabilities()),
            Server::Haproxy(server) => server.version().map(Capabilities::from),
            Server::Companion(companion) => companion.haproxy().version().map(Capabilities::from),
        }
    }

    /// Whether the next generation could be given a listener there.
    pub(crate) fn can_be_given(&self, endpoint: &Endpoint) -> bool {
        match self {
            Server::Service(server) => server.can_be_given(endpoint),
            Server::Haproxy(_) | Server::Companion(_) => {
                self.haproxy().and_then(HaproxyServer::version).is_none_or(|version| version.passes_sockets())
            }
        }
    }

    /// Whether a listener is in the way of a next generation that cannot bind its sockets beside others. `None` where only HAProxy knows what it
    /// will bind.
    pub(crate) fn is_blocked_by(&self, endpoint: &Endpoint, in_custody: bool) -> Option<bool> {
        match self {
            Server::Haproxy(_) | Server::Companion(_) => None,
            Server::Service(server) => Some(server.is_blocked_by(endpoint, in_custody)),
        }
    }

    /// Reads again what decides how HAProxy is started: the command line of its unit, and its environment files. `None` for other servers.
    ///
    /// # Errors
    /// Why the reload fails.
    pub(crate) async fn resolve(&self) -> Result<Option<Haproxy>, Failure> {
        match self {
            Server::Haproxy(server) => server.resolve().await.map(Some),
            Server::Companion(_) | Server::Service(_) => Ok(None),
        }
    }

    /// Takes what [`resolve`](Self::resolve) has read.
    pub(crate) fn set_resolved(&mut self, resolved: Haproxy) {
        if let Server::Haproxy(server) = self {
            server.set_resolved(resolved);
        }
    }

    /// Reads the configuration and refuses what cannot become a generation. `known_good` are the copies of the last-known-good one, where
    /// they are to be used instead of the files on disk.
    ///
    /// # Errors
    /// Why the reload fails.
    pub(crate) async fn prepare(&self, known_good: Option<Vec<PathBuf>>) -> Result<Prepared, Failure> {
        match self {
            Server::Haproxy(server) => server.prepare(known_good).await,
            Server::Companion(_) => {
                let reason = "internal error: the daemon starts no HAProxy in companion mode";
                Err(Failure::new(ReasonCode::StartFailed, reason))
            }
            Server::Service(server) => Ok(server.prepare()),
        }
    }

    /// Starts a process. Where that fails, nothing runs, and none of its files is left.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) async fn launch(&self, prepared: &Prepared, context: LaunchContext<'_>) -> Result<Launched, String> {
        let files = context.files;
        let launched = match (self, prepared.spec()) {
            (Server::Haproxy(server), launch::LaunchSpec::Haproxy(spec)) => server.launch(spec, context).await,
            (Server::Service(server), launch::LaunchSpec::Service(spec)) => server.launch(spec, context).await,
            _ => Err("internal error: the launch spec is for another kind of server".into()),
        };
        launched.inspect_err(|_| files.remove())
    }

    /// Ends the offer of sockets. True where they were taken, or where none were on offer.
    pub(crate) fn withdraw(&self) -> bool {
        match self {
            Server::Haproxy(server) => server.withdraw(),
            Server::Companion(_) | Server::Service(_) => true,
        }
    }

    /// What a generation listens on. `socket` is the socket between the generation and the daemon, `kept` the sockets in custody.
    ///
    /// # Errors
    /// Where the kernel does not list its sockets.
    pub(crate) async fn inspect(
        &self,
        process: &Handle,
        socket: &Path,
        place: &Path,
        kept: &[KeptSocket],
    ) -> Result<Inspection, InspectError> {
        match self {
            Server::Haproxy(server) => server.inspect(process, socket, place, kept).await,
            Server::Companion(companion) => companion.haproxy().inspect(process, socket, place, kept).await,
            Server::Service(server) => server.inspect(process).await,
        }
    }

    /// A listener that shows that a generation serves. `socket` is the socket between the generation and the daemon.
    pub(crate) fn sentinel(
        &self,
        socket: &Path,
        machine: &[ListenSocket],
        sockets: &HashMap<u64, SocketOwner>,
    ) -> Option<u64> {
        match self {
            Server::Haproxy(_) | Server::Companion(_) => stats_socket_inode(socket, machine, sockets),
            Server::Service(_) => machine.iter().map(|found| found.inode).find(|inode| sockets.contains_key(inode)),
        }
    }

    /// What listens at this moment on the addresses of a generation. Empty where only HAProxy knows the addresses, or the kernel does not list
    /// the listeners.
    pub(crate) fn listeners_at_its_addresses(&self) -> Vec<Owned> {
        match self {
            Server::Haproxy(_) | Server::Companion(_) => Vec::new(),
            Server::Service(server) => server.listeners_at_its_addresses(),
        }
    }

    /// Where the server is to serve, as far as reloader's own configuration says.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        match self {
            Server::Haproxy(_) | Server::Companion(_) => Vec::new(),
            Server::Service(server) => server.endpoints(),
        }
    }

    /// Asks a generation to close its listeners, to finish its open connections, and to end. Does nothing for a companion, whose master asks its
    /// workers.
    pub(crate) fn retire(&self, request: &RetireRequest) {
        match (self, &request.stop) {
            (Server::Haproxy(server), _) => server.retire(request),
            (Server::Companion(_), _) => {}
            (Server::Service(server), None) => server.retire(&request.process, server.stop()),
            (Server::Service(server), Some(stop)) => server.retire(&request.process, stop),
        }
    }

    /// Why an operator may not send this signal to its processes, in words that follow the signal's name. `None` if the signal may be sent.
    pub(crate) fn signal_refusal(&self, signal: Signal) -> Option<&'static str> {
        signal_refusal::refusal(signal, self.stop().as_ref(), self.owns_lifecycle())
    }

    /// How the next generation will be asked to end; `None` for HAProxy, which is always asked in the same way.
    pub(crate) fn stop(&self) -> Option<Stop> {
        match self {
            Server::Haproxy(_) | Server::Companion(_) => None,
            Server::Service(server) => Some(server.stop().clone()),
        }
    }

    /// The addresses at which the next generation must serve and does not, as a sentence.
    pub(crate) fn missing_addresses(&self, owned: &[Owned]) -> Option<String> {
        match self {
            Server::Haproxy(_) | Server::Companion(_) => None,
            Server::Service(server) => server.missing_addresses(owned),
        }
    }

    /// Why the generation that comes after this one could not bind its listeners beside it, as a sentence.
    pub(crate) fn next_reload_obstacle(&self, inspection: &Inspection) -> Option<String> {
        match self {
            Server::Haproxy(_) | Server::Companion(_) => None,
            Server::Service(server) => server.next_reload_obstacle(inspection),
        }
    }

    /// Whether a generation that was never proven serves: HAProxy answers on `socket`, another server waits on each of its sockets. With
    /// sockets that it was given a server listens from its beginning.
    pub(crate) async fn serves_already(&self, root: u32, socket: &Path, timeout: Duration) -> bool {
        match self {
            Server::Haproxy(_) | Server::Companion(_) => runtime_api::info(socket, timeout).await.is_ok(),
            Server::Service(server) => server.is_attended(root),
        }
    }

    /// Removes what the daemon made for the clients of a server that is not to be started again. `custody` has the sockets of that server.
    pub(crate) fn leave(&self, custody: &Custody) {
        match self {
            Server::Haproxy(_) | Server::Companion(_) => {}
            Server::Service(server) => server.leave(custody),
        }
    }

    /// How copies of its configuration are checked. `None` where none are kept.
    pub(crate) fn check_copies(&self, config: Vec<PathBuf>) -> Option<Check> {
        match self {
            Server::Haproxy(server) => Some(server.check_copies(config)),
            Server::Companion(_) | Server::Service(_) => None,
        }
    }

    /// How its configuration is checked.
    pub(crate) fn check(&self) -> Option<Check> {
        match self {
            Server::Haproxy(server) => Some(server.check()),
            Server::Companion(companion) => Some(companion.check()),
            Server::Service(server) => server.check(),
        }
    }
}

/// Creates a directory that every user may enter: a service of another user tells there that it is ready.
fn create_service_dir(place: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).create(place)?;
    // Whatever the umask is.
    for directory in place.ancestors().take(2) {
        std::fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

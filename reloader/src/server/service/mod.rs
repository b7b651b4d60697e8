//! Runs a server that the configuration describes by a `[service.NAME]` table.

mod bind;
mod notify;
mod readiness;

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};

use super::launch::{LaunchSpec, ServiceSpec};
use super::{Capabilities, Check, LaunchContext, Launched, Prepared};
use crate::config::{Config, Ready, Service, Sockets, Stop};
use crate::fs::accounts;
use crate::fs::generation_files::{GenerationFiles, create_private};
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::kernel::udp;
use crate::model::listener::{Address, Endpoint, Listener, Owned, Role, SocketType};
use crate::process::{self, Handle, ProcessScope, ProcessSockets, SocketOwner};
use crate::sockets::custody::{Custody, KeptSocket, make_nonblocking};
use crate::sockets::inspection::{InspectError, InspectRequest, Inspection, look};

pub(super) use readiness::Readiness;

/// The first descriptor that sd_listen_fds(3) tells of.
const FIRST_DESCRIPTOR: RawFd = 3;

/// The variable by which nginx is told of inherited sockets (`NGINX_VAR` in its `nginx.h`).
const NGINX_SOCKETS: &str = "NGINX";

/// A server by its `[service.NAME]`.
#[derive(Debug)]
pub(crate) struct ServiceServer {
    name: String,
    config: Service,
}

impl ServiceServer {
    pub(super) fn new(name: &str, config: Service) -> ServiceServer {
        ServiceServer { name: name.to_owned(), config }
    }

    pub(super) fn configure(&mut self, config: &Config, name: &str) {
        if let Some(service) = config.services.get(name) {
            self.config.clone_from(service);
        }
    }

    pub(super) fn stop(&self) -> &Stop {
        &self.config.stop
    }

    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        self.config.listen.clone()
    }

    pub(super) fn is_attended(&self, root: u32) -> bool {
        readiness::is_attended(root, &self.config.listen)
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        let why_not_passed = match self.config.sockets {
            Sockets::ListenFds => None,
            Sockets::Reuseport => Some("it binds its sockets itself (sockets = \"reuseport\")".into()),
            Sockets::Replace => Some("it binds its sockets itself, alone (sockets = \"replace\")".into()),
            Sockets::Overlap => Some("it binds its sockets itself (sockets = \"overlap\")".into()),
        };
        Capabilities { why_not_passed, wants_v6only: false }
    }

    pub(super) fn can_be_given(&self, endpoint: &Endpoint) -> bool {
        self.config.sockets == Sockets::ListenFds && self.config.listen.iter().any(|listen| is_at(endpoint, listen))
    }

    pub(super) fn wants_shared_ports(&self) -> Option<bool> {
        (self.config.sockets == Sockets::Overlap).then_some(self.config.fallback.is_some())
    }

    pub(super) fn shared_files(&self) -> &[PathBuf] {
        &self.config.shared_files
    }

    pub(super) fn binds_as(&self) -> Result<u32, String> {
        match &self.config.user {
            Some(name) if self.config.sockets != Sockets::ListenFds => Ok(accounts::user(name)?.uid.as_raw()),
            _ => Ok(rustix::process::geteuid().as_raw()),
        }
    }

    /// A shell that waits for the server keeps its own pid, and a server ignores sockets that are meant for another pid (sd_listen_fds(3)).
    pub(super) fn start_advice(&self) -> Option<String> {
        let [program, option, text, ..] = &self.config.start[..] else { return None };
        let shell = program.rsplit('/').next().filter(|name| ["sh", "bash", "dash"].contains(name))?;
        let waits = option == "-c" && !text.contains("exec ");
        (waits && self.config.sockets == Sockets::ListenFds).then(|| {
            format!("`{shell} -c` gets the sockets, and LISTEN_PID has its pid: let it become the server with `exec`")
        })
    }

    /// Whether a listener of the serving generation is in the way of the next one. The next generation is one that cannot bind its sockets
    /// beside others.
    pub(super) fn is_blocked_by(&self, endpoint: &Endpoint, in_custody: bool) -> bool {
        let is_handed_on = in_custody && self.can_be_given(endpoint);
        let is_taken = |listen: &Endpoint| {
            listen.socket_type == endpoint.socket_type
                && (listen.address == endpoint.address || listen.overlaps(endpoint))
        };
        !is_handed_on && self.config.listen.iter().any(is_taken)
    }

    pub(super) fn prepare(&self) -> Prepared {
        Prepared {
            capabilities: self.capabilities(),
            // The listeners that the daemon binds for the server leave no room for others either.
            binds_alone: self.config.sockets != Sockets::Reuseport,
            is_known_good: false,
            ends_by_reload: None,
            spec: LaunchSpec::Service(ServiceSpec { config: self.config.clone() }),
        }
    }

    pub(super) async fn launch(&self, spec: &ServiceSpec, context: LaunchContext<'_>) -> Result<Launched, String> {
        let config = &spec.config;
        let given = match config.sockets {
            Sockets::ListenFds => given(config, context.custody.kept())?,
            Sockets::Reuseport | Sockets::Replace | Sockets::Overlap => Vec::new(),
        };
        let mut command = self.command(config, context.files, &given).map_err(|error| error.to_string())?;
        context.inheritance.apply_to(&mut command);
        let notify = match config.ready {
            Ready::Notify => Some(notify::Socket::bind(&context.files.socket, config.user.as_deref())?),
            _ => None,
        };
        // Children do not inherit the daemon's own NOTIFY_SOCKET. This is a separate socket for the child.
        command.envs(notify.iter().map(|_| ("NOTIFY_SOCKET", &context.files.socket)));
        let process = context.spawn(command).await?;
        let readiness = Readiness::new(config, process.clone(), &given, notify);
        let label = config.start.join(" ");
        let offers = !given.is_empty();
        Ok(Launched { process, label, given, readiness: super::Readiness::Service(readiness), offers })
    }

    /// The program is started by a command of our own, which alone can tell it its own pid in `LISTEN_PID`.
    fn command(&self, config: &Service, files: &GenerationFiles, given: &[KeptSocket]) -> std::io::Result<Command> {
        let log = create_private(&files.log)?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["launch", "--sockets", &given.len().to_string(), "--record"]).arg(&files.overlay);
        if let Some(user) = &config.user {
            command.args(["--user", user]);
        }
        if !given.is_empty() {
            command.args(["--names", &socket_names(config, &self.name, given.len())]);
        }
        command.arg("--").args(&config.start);
        command.envs(&config.environment);
        command.stdin(Stdio::null()).stderr(Stdio::from(log));
        let mut mappings = Vec::new();
        for (held, child_fd) in given.iter().zip(FIRST_DESCRIPTOR..) {
            mappings.push(FdMapping { parent_fd: held.fd.try_clone()?, child_fd });
        }
        command.fd_mappings(mappings).map_err(std::io::Error::other)?;
        Ok(command)
    }

    pub(super) async fn inspect(&self, process: &Handle) -> Result<Inspection, InspectError> {
        let (listen, root) = (self.config.listen.clone(), process.pid());
        tokio::task::spawn_blocking(move || {
            let ephemeral = udp::ephemeral_ports();
            look(InspectRequest {
                processes: ProcessSockets::read(ProcessScope::All.processes(root)),
                given: Vec::new(),
                machine: sock_diag::listeners()?,
                role: |address: &Address| Some(role(&listen, address)),
                serves: |endpoint: &Endpoint, _: &OwnedFd| serves_datagrams(&listen, &ephemeral, endpoint),
                // The server may close some listeners and bind others, for each of its workers. It serves while it has any listener.
                sentinel: |_: &[ListenSocket], _: &HashMap<u64, SocketOwner>| None,
                notes: Vec::new(),
                doubt: None,
            })
        })
        .await?
    }

    pub(super) fn listeners_at_its_addresses(&self) -> Vec<Owned> {
        let machine = sock_diag::listeners().unwrap_or_default();
        let is_ours =
            |found: &ListenSocket| self.config.listen.iter().any(|listen| is_stream_at(listen, &found.address));
        let there = machine.into_iter().filter(is_ours);
        let listeners = there.map(|found| Listener { endpoint: Endpoint::stream(found.address), inode: found.inode });
        listeners.map(|listener| Owned { listener, role: Role::Traffic }).collect()
    }

    pub(super) fn retire(&self, process: &Handle, stop: &Stop) {
        let words = match stop {
            Stop::Signal(signal) => return process.signal(*signal),
            Stop::Command(words) => words,
        };
        if process.try_ended().is_some() {
            return;
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(&self.config.environment).env("MAINPID", process.pid().to_string());
        if let Err(error) = process::start_detached(&mut command) {
            log::error!("process {} was not asked to end: {error}", process.pid());
        }
    }

    /// Removes the paths of unix sockets, so that clients see that nothing serves there. A path that leads to a foreign socket by now stays.
    pub(super) fn leave(&self, custody: &Custody) {
        for held in custody.kept() {
            let Address::Unix(path) = &held.listener.endpoint.address else { continue };
            let ours = sock_diag::bound_file(held.listener.inode).ok().flatten().map(|file| file.inode);
            let there = std::fs::symlink_metadata(path).ok().map(|metadata| metadata.ino() as u32);
            if ours.is_none() || ours != there {
                continue;
            }
            if let Err(error) = std::fs::remove_file(path) {
                log::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }

    /// The addresses of the configuration on which it does not listen, whatever showed that it is ready.
    pub(super) fn missing_addresses(&self, owned: &[Owned]) -> Option<String> {
        let missing = |listen: &&Endpoint| !owned.iter().any(|owned| is_at(&owned.listener.endpoint, listen));
        let missing: Vec<String> = self.config.listen.iter().filter(missing).map(ToString::to_string).collect();
        (!missing.is_empty()).then(|| format!("it does not listen on {}", missing.join(", ")))
    }

    /// Why the generation that comes after this one could not bind its listeners beside it, as a sentence: it binds one itself, and alone.
    pub(super) fn next_reload_obstacle(&self, inspection: &Inspection) -> Option<String> {
        if matches!(self.config.sockets, Sockets::Replace | Sockets::Overlap) {
            return None;
        }
        let ephemeral = udp::ephemeral_ports();
        let kept = inspection.custody.kept().iter();
        let is_alone = |kept: &&KeptSocket| {
            let endpoint = &kept.listener.endpoint;
            let is_passed = self.config.sockets == Sockets::ListenFds && self.can_be_given(endpoint);
            // Another generation gets another port from the kernel.
            let is_chosen = endpoint.port().is_some_and(|port| ephemeral.contains(&port));
            endpoint.is_tcp_here() && !is_passed && !is_chosen && !kept.shares_its_address()
        };
        let found = kept.filter(is_alone).min_by_key(|kept| kept.listener.endpoint.port())?;
        let remedy = match self.config.sockets {
            Sockets::ListenFds => "add it to `listen` of the service, or let the server set SO_REUSEPORT there",
            _ => "let the server set SO_REUSEPORT there",
        };
        Some(format!(
            "the next reload will fail: the server has bound {} itself and without SO_REUSEPORT, so that the next generation cannot bind it \
             beside this one; {remedy}",
            found.listener.endpoint
        ))
    }

    pub(super) fn check(&self) -> Option<Check> {
        let words: Vec<_> = self.config.check.iter().map(Into::into).collect();
        (!words.is_empty()).then(|| Check {
            words,
            who: self.config.check[0].clone(),
            environment: None,
            added: BTreeMap::new(),
        })
    }
}

/// Returns one socket for each address: the socket in custody, or a new one.
fn given(config: &Service, custody: &[KeptSocket]) -> Result<Vec<KeptSocket>, String> {
    let file = bind::UnixFile::from_config(config)?;
    let socket = |listen: &Endpoint| match custody.iter().find(|held| is_at(&held.listener.endpoint, listen)) {
        Some(held) => Ok(held.clone()),
        None => bind::socket(listen, &config.listen, file),
    };
    let given: Vec<KeptSocket> = config.listen.iter().map(socket).collect::<Result<_, _>>()?;
    // nginx takes over sockets of another nginx only, which have O_NONBLOCK: without it a worker that comes too late to a connection sleeps in
    // accept(2), and its other clients wait.
    if config.environment.contains_key(NGINX_SOCKETS) {
        for kept in &given {
            make_nonblocking(&kept.fd);
        }
    }
    Ok(given)
}

/// The names of the passed sockets, as `LISTEN_FDNAMES` has them.
fn socket_names(config: &Service, name: &str, sockets: usize) -> String {
    let names = match config.socket_names.is_empty() {
        true => vec![name; sockets],
        false => config.socket_names.iter().map(String::as_str).collect(),
    };
    names.join(":")
}

fn is_at(endpoint: &Endpoint, listen: &Endpoint) -> bool {
    endpoint.address == listen.address
        && endpoint.socket_type == listen.socket_type
        && endpoint.interface.is_none()
        && endpoint.netns.is_none()
}

fn is_stream_at(listen: &Endpoint, address: &Address) -> bool {
    listen.socket_type == SocketType::Stream && listen.address == *address
}

/// A UDP socket on a port that the kernel has chosen was bound for sending, unless it was chosen by the configuration too.
fn serves_datagrams(listen: &[Endpoint], ephemeral: &RangeInclusive<u16>, endpoint: &Endpoint) -> bool {
    let is_configured = listen.iter().any(|listen| is_at(endpoint, listen));
    is_configured || endpoint.port().is_some_and(|port| !ephemeral.contains(&port))
}

/// TCP listeners beyond its addresses count as traffic, because clients may come by them. Its further unix sockets do not.
fn role(listen: &[Endpoint], address: &Address) -> Role {
    let is_configured = listen.iter().any(|listen| is_stream_at(listen, address));
    if is_configured || matches!(address, Address::Inet(_)) { Role::Traffic } else { Role::Control }
}

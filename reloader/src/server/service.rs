//! A server that the configuration describes.

mod bind;
mod notify;
mod readiness;

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};

use super::{Abilities, Check, Launched, Prepared, Ways};
use crate::config::{Ready, Service, Sockets, Stop};
use crate::custody::Held;
use crate::generation_files::{Files, create_private, number_of};
use crate::inspection::{InspectError, Inspection, Known, look};
use crate::kernel::sock_diag::ListenSocket;
use crate::listener::{Address, Endpoint, Role};
use crate::process::{self, Handle, Kin, SocketOwner};

pub(super) use readiness::Readiness;

/// The first descriptor that sd_listen_fds(3) tells of.
const FIRST_DESCRIPTOR: RawFd = 3;

/// Names the generation in the environment of its processes, so that a daemon finds those that were never recorded.
const GENERATION: &str = "RELOADER_GENERATION";

/// A server by its `[service.NAME]`.
#[derive(Debug)]
pub(crate) struct ServiceServer {
    pub(crate) config: Service,
}

/// One that is to be started.
#[derive(Debug)]
pub(super) struct Recipe {
    config: Service,
}

impl ServiceServer {
    pub(super) fn new(config: Service) -> ServiceServer {
        ServiceServer { config }
    }

    pub(super) fn abilities(&self) -> Abilities {
        let not_given = match self.config.sockets {
            Sockets::ListenFds => None,
            Sockets::Reuseport => Some("it binds its sockets itself (sockets = \"reuseport\")".into()),
            Sockets::Replace => Some("it binds its sockets itself, alone (sockets = \"replace\")".into()),
        };
        Abilities { not_given, wants_v6only: false }
    }

    pub(super) fn can_be_given(&self, endpoint: &Endpoint) -> bool {
        self.config.sockets == Sockets::ListenFds && self.config.listen.iter().any(|address| is_at(endpoint, address))
    }

    pub(super) fn prepare(&self) -> Prepared {
        Prepared {
            abilities: self.abilities(),
            binds_alone: self.config.sockets == Sockets::Replace,
            is_known_good: false,
            recipe: super::Recipe::Service(Recipe { config: self.config.clone() }),
        }
    }

    pub(super) fn launch(&mut self, recipe: &Recipe, ways: Ways<'_>) -> Result<Launched, String> {
        let config = &recipe.config;
        let given = match config.sockets {
            Sockets::ListenFds => given(&config.listen, ways.custody.held())?,
            Sockets::Reuseport | Sockets::Replace => Vec::new(),
        };
        let mut command = self.command(config, ways.files, &given).map_err(|error| error.to_string())?;
        ways.inheritance.apply_to(&mut command);
        let notify = match config.ready {
            Ready::Notify => Some(notify::Socket::bind(&ways.files.socket)?),
            _ => None,
        };
        // What the daemon itself was told by such variables is kept from its children; this one is the child's own.
        command.envs(notify.iter().map(|_| ("NOTIFY_SOCKET", &ways.files.socket)));
        let process = Handle::spawn(&mut command).map_err(|error| error.to_string())?;
        let readiness = Readiness::of(config, process.clone(), &given, notify);
        let label = config.start.join(" ");
        let offers = !given.is_empty();
        Ok(Launched { process, label, given, readiness: super::Readiness::Service(readiness), offers })
    }

    /// The program is started by a command of our own, which alone can tell it its own pid in `LISTEN_PID`.
    fn command(&self, config: &Service, files: &Files, given: &[Held]) -> std::io::Result<Command> {
        let log = create_private(&files.log)?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["launch", "--sockets", &given.len().to_string()]);
        if let Some(user) = &config.user {
            command.args(["--user", user]);
        }
        command.arg("--").args(&config.start);
        command.envs(&config.environment).env(GENERATION, &files.log);
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
            look(Known {
                processes: Kin::All.of(root),
                given: Vec::new(),
                role: |address: &Address| Some(role(&listen, address)),
                lifeline: |machine: &[ListenSocket], sockets: &HashMap<u64, SocketOwner>| {
                    lifeline(&listen, machine, sockets)
                },
                notes: Vec::new(),
                doubt: None,
            })
        })
        .await?
    }

    pub(super) fn retire(&self, process: &Handle) {
        let words = match &self.config.stop {
            Stop::Signal(signal) => return process.signal(*signal),
            Stop::Command(words) => words,
        };
        if process.try_ended().is_some() {
            return;
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("MAINPID", process.pid().to_string());
        if let Err(error) = process::run_aside(&mut command) {
            log::error!("process {} was not asked to end: {error}", process.pid());
        }
    }

    /// Clients of a unix socket are told by its path that nobody serves there.
    pub(super) fn leave(&self) {
        if self.config.sockets != Sockets::ListenFds {
            return;
        }
        for address in &self.config.listen {
            let Address::Unix(path) = address else { continue };
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    log::warn!("cannot remove {}: {error}", path.display());
                }
                _ => {}
            }
        }
    }

    pub(super) fn check(&self) -> Option<Check> {
        let words: Vec<_> = self.config.check.iter().map(Into::into).collect();
        (!words.is_empty()).then(|| Check { words, who: self.config.check[0].clone(), environment: None })
    }

    /// The generation that a process was started as, where its environment says so.
    pub(crate) fn generation_of(place: &Path, pid: u32) -> Option<u64> {
        let marker = |pid| process::environment(pid, GENERATION);
        let own = marker(pid)?;
        // Children inherit it.
        let is_root = process::parent(pid).and_then(marker).as_ref() != Some(&own);
        is_root.then(|| number_of(place, Path::new(&own), "log")).flatten()
    }
}

/// For each address the socket in custody, or a new one.
fn given(listen: &[Address], custody: &[Held]) -> Result<Vec<Held>, String> {
    let socket = |address: &Address| match custody.iter().find(|held| is_at(&held.listener.endpoint, address)) {
        Some(held) => Ok(held.clone()),
        None => bind::listener(address),
    };
    listen.iter().map(socket).collect()
}

/// Its listener at the first of its addresses.
pub(super) fn lifeline(
    listen: &[Address],
    machine: &[ListenSocket],
    sockets: &HashMap<u64, SocketOwner>,
) -> Option<u64> {
    let first = listen.first()?;
    machine.iter().find(|found| found.address == *first && sockets.contains_key(&found.inode)).map(|found| found.inode)
}

fn is_at(endpoint: &Endpoint, address: &Address) -> bool {
    endpoint.address == *address && endpoint.interface.is_none() && endpoint.netns.is_none()
}

/// What it listens on beyond its addresses counts where clients may come by TCP; its own unix sockets are its own affair.
fn role(listen: &[Address], address: &Address) -> Role {
    if listen.contains(address) || matches!(address, Address::Inet(_)) { Role::Traffic } else { Role::Control }
}

//! Describes a start: what is known before it, what the new process gets, and what it returns.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Capabilities, service};
use crate::config::Service;
use crate::fs::generation_files::GenerationFiles;
use crate::haproxy::appearance::Appearance;
use crate::haproxy::bind_protocol::BindProtocols;
use crate::haproxy::drain_times::DrainTimes;
use crate::haproxy::named_files;
use crate::haproxy::scan::{self, Facts, QUIC_LOSES, Source};
use crate::haproxy::version::Version;
use crate::model::listener::{Address, SocketType};
use crate::process::readiness::NotReady;
use crate::process::{BlockingLane, Handle, run_blocking};
use crate::receipt::FileDigest;
use crate::sockets::custody::{Custody, KeptSocket};
use crate::sys::{Inheritance, start_in_control_group};

/// A configuration that can become a generation.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// What this server can do with listeners.
    pub(crate) capabilities: Capabilities,
    /// Whether no other socket can be bound beside its own.
    pub(crate) binds_alone: bool,
    /// Whether this is the last-known-good configuration.
    pub(crate) is_known_good: bool,
    /// A sentence about a part of the configuration that every reload ends, such as a program with `no option start-on-reload`.
    pub(crate) ends_by_reload: Option<String>,
    pub(super) spec: LaunchSpec,
}

/// What a kind of server needs to start a generation.
#[derive(Debug)]
pub(super) enum LaunchSpec {
    Haproxy(HaproxySpec),
    Service(ServiceSpec),
}

/// A HAProxy that is to be started.
#[derive(Debug)]
pub(super) struct HaproxySpec {
    pub(super) version: Version,
    pub(super) config: Vec<PathBuf>,
    pub(super) sources: Vec<Source>,
    /// HAProxy's working directory while it reads them.
    pub(super) working_dir: PathBuf,
    pub(super) facts: Facts,
    /// Paths of unix sockets whose mode or owner the configuration has changed.
    pub(super) outdated: HashSet<PathBuf>,
}

/// A server other than HAProxy that is to be started.
#[derive(Debug)]
pub(super) struct ServiceSpec {
    pub(super) config: Service,
}

impl Prepared {
    pub(super) fn spec(&self) -> &LaunchSpec {
        &self.spec
    }

    /// Makes the digests of the configuration's files. `None` where only the server knows its files. It blocks.
    pub(crate) fn digests(&self) -> Option<impl FnOnce() -> Vec<FileDigest> + Send + use<>> {
        match &self.spec {
            LaunchSpec::Haproxy(spec) => {
                let (sources, working_dir) = (spec.sources.clone(), spec.working_dir.clone());
                Some(move || named_files::digests(&sources, &working_dir))
            }
            LaunchSpec::Service(_) => None,
        }
    }

    /// The configuration files as they were read. Other servers have none.
    pub(crate) fn sources(&self) -> &[Source] {
        match &self.spec {
            LaunchSpec::Haproxy(spec) => &spec.sources,
            LaunchSpec::Service(_) => &[],
        }
    }

    /// The TCP ports that it binds, as far as its configuration files tell.
    pub(crate) fn binds(&self) -> impl Iterator<Item = u16> {
        let protocols = BindProtocols::from_sources(self.sources());
        protocols.ports().collect::<Vec<_>>().into_iter()
    }

    /// The times by which the server itself bounds its end.
    pub(crate) fn drain_times(&self) -> DrainTimes {
        match &self.spec {
            LaunchSpec::Haproxy(spec) => spec.facts.drain_times,
            LaunchSpec::Service(_) => DrainTimes::default(),
        }
    }

    /// What clients lose when an old generation retires, although their socket is passed.
    pub(crate) fn retires_with_loss(&self) -> Option<&'static str> {
        match &self.spec {
            LaunchSpec::Haproxy(spec) => spec.retires_with_loss(),
            LaunchSpec::Service(_) => None,
        }
    }

    /// What the new generation reads. `None` where only the server knows, or where it reads copies.
    pub(crate) fn read_by_server(&self) -> Option<ReadByServer> {
        let LaunchSpec::Haproxy(spec) = &self.spec else { return None };
        let HaproxySpec { config, sources, working_dir, .. } = spec;
        (!self.is_known_good).then(|| ReadByServer::new(config.clone(), sources.clone(), working_dir.clone()))
    }
}

impl HaproxySpec {
    /// Leaves out the sockets that have another protocol, mode or owner than the configuration says: HAProxy would use them as they are.
    pub(super) fn leave_out_changed_binds(&self, custody: &mut Custody) {
        let protocols = BindProtocols::from_sources(&self.sources);
        custody.retain(|kept| {
            let endpoint = &kept.listener.endpoint;
            if let Address::Unix(path) = &endpoint.address
                && self.outdated.contains(path)
            {
                log::info!("{endpoint} is bound again: its file has another mode or owner than the configuration says");
                return false;
            }
            let wanted = endpoint.inet().filter(|_| endpoint.socket_type == SocketType::Stream);
            let wanted = wanted.and_then(|address| protocols.speaks_mptcp(address));
            wanted.is_none_or(|mptcp| mptcp == endpoint.mptcp)
        });
    }

    fn retires_with_loss(&self) -> Option<&'static str> {
        self.facts.quic.then_some(QUIC_LOSES)
    }
}

/// A configuration that HAProxy reads.
#[derive(Debug, Clone)]
pub(crate) struct ReadByServer {
    config: Vec<PathBuf>,
    /// Its files, as they were read before HAProxy read them.
    pub(crate) sources: Vec<Source>,
    /// HAProxy's working directory meanwhile.
    pub(crate) working_dir: PathBuf,
}

impl ReadByServer {
    /// The files `config` with what is in them.
    pub(crate) fn new(config: Vec<PathBuf>, sources: Vec<Source>, working_dir: PathBuf) -> ReadByServer {
        ReadByServer { config, sources, working_dir }
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// They are not the same any more, or cannot be read. The text is a sentence.
    pub(crate) async fn confirm(&self) -> Result<(), String> {
        let files = self.config.clone();
        let now =
            BlockingLane::default().run("reading HAProxy's configuration again", move || scan::read(&files)).await;
        match now {
            Ok(sources) if sources == self.sources => Ok(()),
            Ok(_) => Err("the configuration changed on disk while HAProxy read it: not kept as last-known-good".into()),
            Err(error) => {
                Err(format!("the configuration could not be read again: not kept as last-known-good: {error}"))
            }
        }
    }
}

/// What a start needs besides its [`LaunchSpec`].
pub(crate) struct LaunchContext<'a> {
    /// The files of the new generation.
    pub(crate) files: &'a GenerationFiles,
    /// The sockets that the new generation may be given.
    pub(crate) custody: Custody,
    /// What every child gets.
    pub(crate) inheritance: &'a Inheritance,
    /// The control group that the new process enters.
    pub(crate) control_group: Option<Entrance<'a>>,
    /// HAProxy's `close-spread-time`.
    pub(crate) spread: Option<&'a str>,
}

/// A control group that a new process enters before its program runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entrance<'a> {
    /// Its directory, for people.
    pub(crate) group: &'a Path,
    /// Its `cgroup.procs`.
    pub(crate) file: BorrowedFd<'a>,
    /// Whether the start fails where the process cannot enter.
    pub(crate) is_required: bool,
}

impl LaunchContext<'_> {
    /// Starts `command` in its control group. The kernel lets a process enter after a grace period of RCU, and not while other groups change
    /// (`cgroup_mutex`): the loop does not wait for that.
    ///
    /// # Errors
    /// A sentence.
    pub(super) async fn spawn(&self, mut command: Command) -> Result<Handle, String> {
        let Some(Entrance { group, file, is_required }) = self.control_group else {
            return Handle::spawn(&mut command).map_err(|error| error.to_string());
        };
        let file = file.try_clone_to_owned().map_err(|error| error.to_string())?;
        start_in_control_group(&mut command, file, is_required);
        let started = run_blocking(move || Handle::spawn(&mut command)).await;
        started.map_err(|error| format!("{error} (in the control group {})", group.display()))
    }
}

/// A process that was just started.
pub(crate) struct Launched {
    /// Its root process.
    pub(crate) process: Handle,
    /// What it was started from, for people.
    pub(crate) label: String,
    /// The sockets that it was given by descriptor.
    pub(crate) given: Vec<KeptSocket>,
    /// How it will show that it is ready.
    pub(crate) readiness: Readiness,
    /// Sockets are on offer at the broker.
    pub(crate) offers: bool,
}

/// How a new generation shows that it is ready.
pub(crate) enum Readiness {
    /// Its private stats socket answers.
    Haproxy(Appearance),
    /// As its configuration says.
    Service(service::Readiness),
}

impl Readiness {
    /// Waits until it is ready.
    ///
    /// # Errors
    /// Where its readiness cannot be seen.
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

//! HAProxy as a kind of server.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::launch::{HaproxySpec, LaunchSpec};
use super::refusal::{unknown_version, unread_configuration};
use super::{Check, LaunchContext, Launched, Prepared, Readiness, RetireRequest};
use crate::config::{Config, Haproxy};
use crate::haproxy::appearance::{Appearance, FirstAnswers};
use crate::haproxy::broker::Broker;
use crate::haproxy::check::check_command;
use crate::haproxy::inspect::{Inspected, inspect};
use crate::haproxy::launch;
use crate::haproxy::master::tell_to_drain;
use crate::haproxy::overlay::overlay;
use crate::haproxy::scan;
use crate::haproxy::unit_command;
use crate::haproxy::unix_files;
use crate::haproxy::version::{Version, VersionCache, VersionError};
use crate::process::{BlockingLane, Handle};
use crate::receipt::{Failure, ReasonCode};
use crate::sockets::custody::KeptSocket;
use crate::sockets::inspection::{InspectError, Inspection};

/// HAProxy, with the broker that hands it its sockets.
#[derive(Debug)]
pub(crate) struct HaproxyServer {
    config: Haproxy,
    broker: Broker,
    versions: VersionCache,
    first_answers: FirstAnswers,
    /// Reads of its configuration files, whose file system may hang.
    files: BlockingLane,
    /// How long the program may take to say which version it is.
    start_timeout: Duration,
}

impl HaproxyServer {
    pub(super) fn new(config: Haproxy, broker: Broker, start_timeout: Duration) -> HaproxyServer {
        // A command line that cannot be read is an error of the first start.
        let config = unit_command::resolve(&config).unwrap_or(config);
        HaproxyServer {
            config,
            broker,
            versions: VersionCache::default(),
            first_answers: FirstAnswers::default(),
            files: BlockingLane::default(),
            start_timeout,
        }
    }

    pub(crate) fn config(&self) -> &Haproxy {
        &self.config
    }

    pub(super) fn configure(&mut self, config: &Config) {
        if let Some(haproxy) = &config.haproxy {
            let known = self.config.clone();
            self.config.clone_from(haproxy);
            if haproxy.unit_command.is_some() {
                // What the command line says is read before the next reload.
                self.set_resolved(known);
            }
        }
        self.start_timeout = config.reload.start_timeout;
    }

    /// Reads the command line of the unit and its environment files again, where the configuration names them. The result is for
    /// [`set_resolved`](Self::set_resolved).
    ///
    /// # Errors
    /// A sentence.
    pub(super) async fn resolve(&self) -> Result<Haproxy, Failure> {
        let config = self.config.clone();
        if config.unit_command.is_none() {
            return Ok(config);
        }
        let resolve = move || Ok(unit_command::resolve(&config));
        let resolved = self.files.run("reading HAProxy's environment files", resolve).await;
        let refused = |reason| Failure::new(ReasonCode::ConfigurationRefused, reason);
        resolved.map_err(unread_configuration)?.map_err(refused)
    }

    /// Takes the program, the files, the arguments and the environment of `resolved`.
    pub(super) fn set_resolved(&mut self, resolved: Haproxy) {
        let Haproxy { binary, config, args, environment, .. } = resolved;
        let own = &mut self.config;
        (own.binary, own.config, own.args, own.environment) = (binary, config, args, environment);
    }

    pub(super) fn restore_broker(&mut self, place: &Path) -> io::Result<()> {
        self.broker = Broker::listen(place)?;
        Ok(())
    }

    /// The HAProxy that the next generation will be.
    pub(super) async fn refresh_version(&self) -> Result<Version, VersionError> {
        self.versions.refresh(&self.config.binary, self.start_timeout).await
    }

    /// The same, as far as it was found out last.
    pub(super) fn version(&self) -> Option<Version> {
        self.versions.known(&self.config.binary)
    }

    pub(super) async fn prepare(&self, known_good: Option<Vec<PathBuf>>) -> Result<Prepared, Failure> {
        let version = self.refresh_version().await.map_err(unknown_version)?;
        let is_known_good = known_good.is_some();
        let config = known_good.unwrap_or_else(|| self.config.config.clone());
        let files = config.clone();
        let load = move || {
            Ok(scan::load(&files).map(|(sources, facts)| {
                let outdated = unix_files::outdated(&sources);
                (sources, facts, outdated)
            }))
        };
        let loaded = self.files.run("reading HAProxy's configuration", load).await;
        let refused = |reason| Failure::new(ReasonCode::ConfigurationRefused, reason);
        let (sources, facts, outdated) = loaded.map_err(unread_configuration)?.map_err(refused)?;
        let (capabilities, binds_alone) = (version.into(), facts.noreuseport);
        let ends_by_reload = facts.lasting_program_sentence();
        let working_dir = launch::working_dir(&self.config);
        let spec = LaunchSpec::Haproxy(HaproxySpec { version, config, sources, working_dir, facts, outdated });
        Ok(Prepared { capabilities, binds_alone, is_known_good, ends_by_reload, spec })
    }

    pub(super) async fn launch(&self, spec: &HaproxySpec, mut context: LaunchContext<'_>) -> Result<Launched, String> {
        spec.leave_out_changed_binds(&mut context.custody);
        let files = context.files;
        let overlay = overlay(&files.socket, &spec.facts, spec.version, context.spread);
        let sockets = if spec.version.passes_sockets() { context.custody.offer() } else { Vec::new() };
        let offers = !sockets.is_empty();
        let broker = offers.then(|| self.broker.path());
        let appearance =
            Appearance::watch(&files.socket, self.first_answers.clone()).map_err(|error| error.to_string())?;
        let mut command =
            launch::command(&self.config, &spec.config, files, &overlay, broker).map_err(|error| error.to_string())?;
        context.inheritance.apply_to(&mut command);
        let waiting = self.broker.let_clients_wait().await;
        let process = context.spawn(command).await?;
        self.broker.offer(process.pid(), sockets);
        drop(waiting);
        let label = launch::label(&spec.config);
        Ok(Launched { process, label, given: Vec::new(), readiness: Readiness::Haproxy(appearance), offers })
    }

    pub(super) fn withdraw(&self) -> bool {
        self.broker.withdraw()
    }

    pub(super) async fn inspect(
        &self,
        process: &Handle,
        socket: &Path,
        place: &Path,
        kept: &[KeptSocket],
    ) -> Result<Inspection, InspectError> {
        let exports = self.version().is_none_or(Version::passes_sockets);
        let cli_sockets = self.first_answers.take(socket);
        let (socket, runtime_dir) = (socket.to_owned(), place.to_owned());
        inspect(Inspected { root: process.pid(), socket, runtime_dir, exports, kept: kept.to_vec(), cli_sockets }).await
    }

    pub(super) fn retire(&self, request: &RetireRequest) {
        tell_to_drain(&request.process, &request.sockets);
    }

    pub(super) fn check(&self) -> Check {
        self.check_of(&self.config)
    }

    /// The check of copies of the configuration.
    pub(super) fn check_copies(&self, config: Vec<PathBuf>) -> Check {
        self.check_of(&Haproxy { config, ..self.config.clone() })
    }

    fn check_of(&self, config: &Haproxy) -> Check {
        let command = check_command(config);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        Check {
            words: words.map(ToOwned::to_owned).collect(),
            who: "HAProxy".into(),
            environment: None,
            added: config.environment.clone(),
        }
    }
}

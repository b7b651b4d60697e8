//! HAProxy as a kind of server.

use std::path::{Path, PathBuf};

use super::{Capabilities, Check, LaunchContext, Launched, Prepared, Readiness};
use crate::config::{Haproxy, Mode};
use crate::haproxy::appearance::Appearance;
use crate::haproxy::broker::Broker;
use crate::haproxy::check::check_command;
use crate::haproxy::inspect::inspect;
use crate::haproxy::launch;
use crate::haproxy::master::tell_to_drain;
use crate::haproxy::overlay::overlay;
use crate::haproxy::scan::{self, Facts, QUIC_LOSES, Source};
use crate::haproxy::version::{Version, VersionCache, VersionError};
use crate::process::Handle;
use crate::server::RetireRequest;
use crate::sockets::inspection::{InspectError, Inspection};

/// HAProxy, with what hands it its sockets.
#[derive(Debug)]
pub(crate) struct HaproxyServer {
    pub(crate) config: Haproxy,
    pub(crate) broker: Broker,
    versions: VersionCache,
}

/// One HAProxy that is to be started.
#[derive(Debug)]
pub(super) struct LaunchSpec {
    version: Version,
    config: Vec<PathBuf>,
    sources: Vec<Source>,
    facts: Facts,
}

impl From<Version> for Capabilities {
    fn from(version: Version) -> Capabilities {
        let unable = || format!("HAProxy {version} cannot be given sockets (1.8 is the first that can)");
        // From 2.3 on (`sock_find_compatible_fd`); what a bind says is known to HAProxy alone.
        Capabilities { why_not_passed: (!version.passes_sockets()).then(unable), wants_v6only: version.at_least(2, 3) }
    }
}

impl HaproxyServer {
    pub(super) fn new(config: Haproxy, broker: Broker) -> HaproxyServer {
        HaproxyServer { config, broker, versions: VersionCache::default() }
    }

    /// The HAProxy that the next generation will be.
    pub(super) fn version(&mut self) -> Result<Version, VersionError> {
        self.versions.get(&self.config.binary)
    }

    pub(super) fn prepare(&mut self, known_good: Option<Vec<PathBuf>>) -> Result<Prepared, String> {
        let version = self.version().map_err(|error| error.to_string())?;
        let is_known_good = known_good.is_some();
        let config = known_good.unwrap_or_else(|| self.config.config.clone());
        let (sources, facts) = scan::load(&config)?;
        let (abilities, binds_alone) = (version.into(), facts.noreuseport);
        let ends_by_reload = facts.lasting_program_sentence();
        let recipe = super::LaunchSpec::Haproxy(LaunchSpec { version, config, sources, facts });
        Ok(Prepared { capabilities: abilities, binds_alone, is_known_good, ends_by_reload, spec: recipe })
    }

    pub(super) fn launch(&mut self, recipe: &LaunchSpec, ways: LaunchContext<'_>) -> Result<Launched, String> {
        let files = ways.files;
        let overlay = overlay(&files.socket, &recipe.facts, recipe.version, ways.spread);
        let sockets = if recipe.version.passes_sockets() { ways.custody.offer() } else { Vec::new() };
        let offers = !sockets.is_empty();
        let broker = offers.then(|| self.broker.path());
        let appearance = Appearance::watch(&files.socket).map_err(|error| error.to_string())?;
        let mut command = launch::command(&self.config, &recipe.config, files, &overlay, broker)
            .map_err(|error| error.to_string())?;
        ways.inheritance.apply_to(&mut command);
        let process = Handle::spawn(&mut command).map_err(|error| error.to_string())?;
        // No await between the start and the offer: see `Broker::offer`.
        self.broker.offer(process.pid(), sockets);
        let label = launch::label(&recipe.config);
        Ok(Launched { process, label, given: Vec::new(), readiness: Readiness::Haproxy(appearance), offers })
    }

    pub(super) async fn inspect(
        &mut self,
        process: &Handle,
        socket: &Path,
        place: &Path,
    ) -> Result<Inspection, InspectError> {
        let exports = self.version().map_or(true, Version::passes_sockets);
        inspect(process.pid(), socket.to_owned(), place.to_owned(), exports).await
    }

    /// A companion's worker is its master's to tell.
    pub(super) fn retire(&self, ending: &RetireRequest) {
        if self.config.mode == Mode::Supervised {
            tell_to_drain(&ending.process, &ending.sockets);
        }
    }

    pub(super) fn check(&self) -> Check {
        let command = check_command(&self.config);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        Check { words: words.map(ToOwned::to_owned).collect(), who: "HAProxy".into(), environment: None }
    }
}

impl Prepared {
    /// What an old generation does to clients whose socket is passed all the same.
    pub(crate) fn retires_with_loss(&self) -> Option<&'static str> {
        let super::LaunchSpec::Haproxy(recipe) = &self.spec else { return None };
        recipe.facts.quic.then_some(QUIC_LOSES)
    }

    /// The configuration that a new HAProxy has read, where it is still the one on disk.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn confirmed_sources(&self) -> Result<Option<&[Source]>, &'static str> {
        let super::LaunchSpec::Haproxy(recipe) = &self.spec else { return Ok(None) };
        match scan::read(&recipe.config) {
            Ok(sources) if sources == recipe.sources => Ok(Some(&recipe.sources)),
            _ => Err("the configuration changed on disk while HAProxy read it: not kept as last-known-good"),
        }
    }
}

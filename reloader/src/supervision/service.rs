//! Describes a service: its name, its directory, its configuration and its kind of server.

use std::path::{Path, PathBuf};

use crate::config::{Config, HAPROXY, Haproxy};
use crate::fs::generation_files::GenerationFiles;
use crate::server::{CompanionServer, Server};

/// One service: its name, its directory, its configuration and its kind of server.
pub(crate) struct Service {
    name: String,
    place: PathBuf,
    /// The configuration, with the strategy of this service.
    config: Config,
    server: Server,
}

impl Service {
    /// The service called `name`. `config` is already made for it.
    pub(crate) fn new(name: &str, config: Config, server: Server) -> Service {
        Service { name: name.to_owned(), place: config.place(name), config, server }
    }

    /// The name of the service.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The directory below runtime-dir with the files of its generations.
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// The configuration, with the strategy of this service.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The kind of server.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// The files of generation `number`.
    pub(crate) fn files(&self, number: u64) -> GenerationFiles {
        GenerationFiles::new(&self.place, number)
    }

    /// The directory for copies of the last-known-good configuration. Only HAProxy's configuration is kept: for other
    /// servers the directory does not exist.
    pub(super) fn last_known_good_dir(&self) -> PathBuf {
        let state_dir = &self.config.state_dir;
        if self.name == HAPROXY { state_dir.clone() } else { state_dir.join("services").join(&self.name) }
    }

    /// Takes a new configuration. The service keeps its name, its directory and its kind.
    pub(super) fn configure(&mut self, config: &Config) {
        self.server.configure(config, &self.name);
        self.config = config.for_service(&self.name);
    }

    /// Takes how HAProxy is started from now on.
    pub(super) fn set_resolved(&mut self, resolved: Haproxy) {
        self.server.set_resolved(resolved);
    }

    /// Creates again the files that the server has in the directory.
    pub(super) fn restore_files(&mut self) -> std::io::Result<()> {
        self.server.restore_files(&self.place)
    }

    /// Calls `change` if the server is a companion. For another kind of server nothing happens.
    pub(super) fn update_companion<T>(&mut self, change: impl FnOnce(&mut CompanionServer) -> T) -> Option<T> {
        self.server.companion_mut().map(change)
    }
}

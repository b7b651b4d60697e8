//! Says which service this is, and what its configuration says about it.

use std::path::{Path, PathBuf};

use crate::config::{Config, HAPROXY};
use crate::fs::generation_files::GenerationFiles;
use crate::server::{CompanionServer, Server};

/// One service: its name, its directory, its configuration and its kind of server.
pub(crate) struct Service {
    name: String,
    place: PathBuf,
    /// With the strategy of this service.
    config: Config,
    server: Server,
}

impl Service {
    /// The service called `name`. `config` is already made for it.
    pub(crate) fn new(name: &str, config: Config, server: Server) -> Service {
        Service { name: name.to_owned(), place: config.place(name), config, server }
    }

    /// What it is called.
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

    /// Where copies of the last-known-good configuration are. Of another server than HAProxy nothing is kept, and nothing is there.
    pub(super) fn last_known_good_dir(&self) -> PathBuf {
        let state_dir = &self.config.state_dir;
        if self.name == HAPROXY { state_dir.clone() } else { state_dir.join("services").join(&self.name) }
    }

    /// Takes a new configuration. The service keeps its name, its directory and its kind.
    pub(super) fn configure(&mut self, config: &Config) {
        self.server.configure(config, &self.name);
        self.config = config.for_service(&self.name);
    }

    /// Creates again what the server has in the directory.
    pub(super) fn restore_files(&mut self) -> std::io::Result<()> {
        self.server.restore_files(&self.place)
    }

    /// Changes what is known of a companion; nothing happens to another kind of server.
    pub(super) fn update_companion<T>(&mut self, change: impl FnOnce(&mut CompanionServer) -> T) -> Option<T> {
        self.server.companion_mut().map(change)
    }
}

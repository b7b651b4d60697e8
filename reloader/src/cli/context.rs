//! The options that all commands share, and what is made from them.

use std::path::PathBuf;

use super::exit::{CliError, Exit};
use crate::config::Config;

/// The options that all commands share.
pub(super) struct Context {
    /// `--config`
    pub(super) config_path: Option<PathBuf>,
    /// `--socket`
    pub(super) socket: Option<PathBuf>,
    /// `--quiet`
    pub(super) quiet: bool,
}

impl Context {
    /// Reads the configuration. A file that does not exist is an error only where `--config` names it.
    pub(super) fn config(&self) -> Result<Config, CliError> {
        Config::load(self.config_path.as_deref()).map_err(|error| CliError::new(Exit::BadConfiguration, error))
    }

    /// A runtime on the calling thread.
    pub(super) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
        let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
        built.map_err(|error| CliError::new(Exit::Internal, format!("cannot start the runtime: {error}")))
    }
}

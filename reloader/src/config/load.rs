//! Reads the configuration file.

use std::path::{Path, PathBuf};

use super::file::File;
use super::settings::Config;

/// The configuration file, unless the command line names another one.
const DEFAULT_PATH: &str = "/etc/reloader/reloader.toml";

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; name another file with --config, or create it")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The file is not a valid configuration.
    #[error("{path}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line and column where they are known, the fault and a remedy.
        message: String,
    },
}

impl Config {
    /// Reads `path`, or the default file, which need not exist.
    ///
    /// # Errors
    /// The file cannot be read, or is not a valid configuration.
    pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Read { path: file.to_owned(), source }),
        };
        Config::parse(&text).map_err(|message| ConfigError::Invalid { path: file.to_owned(), message })
    }

    /// Reads the text of a configuration file, and checks it.
    ///
    /// # Errors
    /// The text is not a valid configuration. The message names line or key, and a remedy.
    pub fn parse(text: &str) -> Result<Config, String> {
        let config: Config =
            toml::from_str::<File>(text).map_err(|error| error.to_string().trim_end().to_owned())?.into();
        config.check()?;
        Ok(config)
    }
}

//! Reasons why the daemon cannot run, as sentences for the operator.

use std::io;
use std::path::{Path, PathBuf};

use crate::haproxy::version::VersionError;

/// Why the daemon does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Capabilities are missing.
    #[error(
        "missing privilege: {0}; run the daemon as root, or give its unit these capabilities; in a container make it the first process (no --init), which goes on without them"
    )]
    Privilege(String),
    /// The runtime directory is locked.
    #[error("another reloader daemon{owner} serves {directory}; stop it first; a second daemon on this machine needs a `--config` of its own with another runtime-dir, state-dir and control-socket (reloader@.service)", directory = .directory.display())]
    AlreadyRunning {
        /// The directory.
        directory: PathBuf,
        /// The pid of the other daemon, in words.
        owner: String,
    },
    /// The control group does not exist.
    #[error("control-group: the group `{0}` does not exist on this machine")]
    NoSuchGroup(String),
    /// A file or socket of the daemon's own failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A place that the configuration names cannot be used.
    #[error("{key}: {path}: {source}", path = .path.display())]
    Place {
        /// The key of the configuration.
        key: &'static str,
        /// Its value.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// HAProxy cannot be used.
    #[error(transparent)]
    Haproxy(#[from] VersionError),
    /// A HAProxy that is there cannot be taken over.
    #[error("{0}")]
    CannotAdopt(String),
    /// Nothing could be started.
    #[error("{0}")]
    NothingServes(String),
}

impl DaemonError {
    /// Wraps an error about a place that the configuration names.
    pub(super) fn place(key: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DaemonError {
        let path = path.to_owned();
        move |source| DaemonError::Place { key, path, source }
    }

    /// Wraps an error of the kernel with what was tried.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> DaemonError {
        let what = what.into();
        move |source| DaemonError::Io { what, source }
    }
}

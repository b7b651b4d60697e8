//! The errors of the registry.

use std::io;
use std::path::PathBuf;

use super::record::MAX_ID;
use crate::gate::failures::ErrorList;

/// Why a hold cannot be registered, or the registry cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Another hold has the port.
    #[error(
        "port {port} is held already, by process {holder}: wait for it to end, or end it with `reloader release`; two holds at \
         once need different ports"
    )]
    Busy {
        /// The port.
        port: u16,
        /// The process id of the other hold's holder, or of its guard where the holder has died.
        holder: u32,
    },
    /// Every id is taken.
    #[error("{MAX_ID} holds are on record in {0}: end some with `reloader release`")]
    Full(PathBuf),
    /// The directory or a file in it cannot be used.
    #[error("cannot use the hold registry at {path}: {source}; the directory must be writable for root (runtime-dir)")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Several files cannot be removed.
    #[error(transparent)]
    Several(#[from] ErrorList<RegistryError>),
}

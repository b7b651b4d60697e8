//! Names the daemon's own files for one generation.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The daemon's files for one generation, in its service's place below runtime-dir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GenerationFiles {
    /// For HAProxy, the configuration file that the daemon adds. For any other server, a file with its pid and start time.
    pub overlay: PathBuf,
    /// The socket between the generation and the daemon. For HAProxy it is the stats socket. Any other server reports on it that it is ready.
    pub socket: PathBuf,
    /// The file that receives the standard error of the generation.
    pub log: PathBuf,
}

impl GenerationFiles {
    /// The files of generation `number`.
    pub(crate) fn new(place: &Path, number: u64) -> GenerationFiles {
        let file = |ending: &str| place.join(format!("generation-{number}.{ending}"));
        GenerationFiles { overlay: file("cfg"), socket: file("sock"), log: file("log") }
    }

    /// Removes the files. A file that does not exist is not an error.
    pub(crate) fn remove(&self) {
        for path in [&self.overlay, &self.socket, &self.log] {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                log::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }
}

/// The last number that a generation can have.
pub(crate) const LAST_NUMBER: u64 = u32::MAX as u64;

/// The generation that a file of this place belongs to.
pub(crate) fn number_of(place: &Path, path: &Path, ending: &str) -> Option<u64> {
    let name = path.strip_prefix(place).ok()?.to_str()?;
    let number = name.strip_prefix("generation-")?.strip_suffix(ending)?.strip_suffix('.')?.parse().ok()?;
    (number <= LAST_NUMBER).then_some(number)
}

/// Creates a file that only root can read, in append mode. The daemon truncates a log after reading it, and the server then writes at the new
/// end.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let opened = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path);
    opened.map_err(|error| io::Error::new(error.kind(), format!("cannot create {}: {error}", path.display())))
}

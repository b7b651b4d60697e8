//! One generation of HAProxy: its files, and the command that starts it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::config::Haproxy;

/// The daemon's files for one generation, in runtime-dir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The daemon's own configuration file for it.
    pub overlay: PathBuf,
    /// Its private stats socket.
    pub socket: PathBuf,
    /// Its standard error.
    pub log: PathBuf,
}

impl Files {
    /// The files of generation `number`.
    pub fn of(runtime_dir: &Path, number: u64) -> Files {
        let file = |ending: &str| runtime_dir.join(format!("generation-{number}.{ending}"));
        Files { overlay: file("cfg"), socket: file("sock"), log: file("log") }
    }

    /// Removes them; what is not there is no error.
    pub fn remove(&self) {
        for path in [&self.overlay, &self.socket, &self.log] {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                log::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }
}

/// True for the private stats socket of any generation of this runtime-dir.
pub fn is_private_socket(runtime_dir: &Path, path: &Path) -> bool {
    number_of(runtime_dir, path, "sock").is_some()
}

/// The generation that a file of this runtime-dir belongs to.
pub fn number_of(runtime_dir: &Path, path: &Path, ending: &str) -> Option<u64> {
    let name = path.strip_prefix(runtime_dir).ok()?.to_str()?;
    name.strip_prefix("generation-")?.strip_suffix(ending)?.strip_suffix('.')?.parse().ok()
}

/// What a generation was started from, for people.
pub fn label(config: &[PathBuf]) -> String {
    config.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}

/// The command that runs a generation in the foreground, with its sockets from `broker` when there are any.
///
/// Standard error goes to a file, not to a pipe: a generation outlives the daemon, and a pipe would then have no reader.
pub fn command(
    haproxy: &Haproxy,
    config: &[PathBuf],
    files: &Files,
    overlay: &str,
    broker: Option<&Path>,
) -> io::Result<Command> {
    write_private(&files.overlay)?.write_all_of(overlay)?;
    let log = write_private(&files.log)?;
    let mut command = Command::new(&haproxy.binary);
    command.arg("-db");
    for file in config {
        command.arg("-f").arg(file);
    }
    command.arg("-f").arg(&files.overlay);
    if let Some(broker) = broker {
        command.arg("-x").arg(broker);
    }
    command.args(&haproxy.args);
    command.stdin(Stdio::null()).stderr(Stdio::from(log));
    Ok(command)
}

fn write_private(path: &Path) -> io::Result<File> {
    // Append mode: the daemon cuts the file when it has read it, and HAProxy goes on at the new end.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let opened = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path);
    opened.map_err(|error| io::Error::new(error.kind(), format!("cannot create {}: {error}", path.display())))
}

trait WriteAllOf {
    fn write_all_of(self, text: &str) -> io::Result<()>;
}

impl WriteAllOf for File {
    fn write_all_of(mut self, text: &str) -> io::Result<()> {
        io::Write::write_all(&mut self, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_daemons_own_sockets_are_private() {
        let directory = Path::new("/run/reloader");
        assert!(is_private_socket(directory, Path::new("/run/reloader/generation-12.sock")));
        assert!(!is_private_socket(directory, Path::new("/run/reloader/generation-12.cfg")));
        assert!(!is_private_socket(directory, Path::new("/run/haproxy/generation-12.sock")));
        assert!(!is_private_socket(directory, Path::new("/run/reloader/generation-x.sock")));
    }
}

//! Builds the command that starts a generation of HAProxy, and its files.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::config::Haproxy;
use crate::fs::generation_files::{GenerationFiles, create_private, number_of};
use crate::sys::ignore_sigusr2;

/// True for the private stats socket of any generation of this runtime-dir.
pub fn is_private_socket(runtime_dir: &Path, path: &Path) -> bool {
    number_of(runtime_dir, path, "sock").is_some()
}

/// The paths of a generation's configuration, as text for people.
pub fn label(config: &[PathBuf]) -> String {
    config.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}

/// HAProxy's working directory while it reads its configuration: the daemon's, or that of `-C`.
pub(crate) fn working_dir(haproxy: &Haproxy) -> PathBuf {
    let own = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let pairs = haproxy.args.iter().zip(haproxy.args.iter().skip(1));
    let chosen = pairs.filter(|(arg, _)| *arg == "-C").map(|(_, directory)| directory).next_back();
    chosen.map_or_else(|| own.clone(), |directory| own.join(directory))
}

/// The command that runs a generation in the foreground. With `broker`, the generation takes its sockets from there.
///
/// Standard error goes to a file, not to a pipe: a generation outlives the daemon, and a pipe would then have no reader.
pub(crate) fn command(
    haproxy: &Haproxy,
    config: &[PathBuf],
    files: &GenerationFiles,
    overlay: &str,
    broker: Option<&Path>,
) -> io::Result<Command> {
    create_private(&files.overlay)?.write_all(overlay.as_bytes())?;
    let log = create_private(&files.log)?;
    let mut command = Command::new(&haproxy.binary);
    ignore_sigusr2(&mut command);
    command.arg("-db");
    for file in config {
        command.arg("-f").arg(file);
    }
    command.arg("-f").arg(&files.overlay);
    if let Some(broker) = broker {
        command.arg("-x").arg(broker);
    }
    command.args(&haproxy.args);
    command.envs(&haproxy.environment);
    command.stdin(Stdio::null()).stderr(Stdio::from(log));
    Ok(command)
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

//! Asks a program file which HAProxy it is.

use std::cell::RefCell;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use crate::process::output_within;
use crate::sys::ignore_sigusr2;

/// The major and minor version of HAProxy. They decide which features it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why the version is not known.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// The program cannot be run.
    #[error("cannot run {binary}: {source}; set `binary` under [haproxy] to the HAProxy program")]
    Run {
        /// The program file.
        binary: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The program did not answer in time.
    #[error(
        "{binary} did not answer `-v` within {}; find out what it waits for, or raise start-timeout if it needs longer",
        humantime::format_duration(*.timeout)
    )]
    TimedOut {
        /// The program file.
        binary: String,
        /// The time limit.
        timeout: Duration,
    },
    /// The answer names no HAProxy version.
    #[error("{0} does not name a HAProxy version under `-v`; set `binary` under [haproxy] to the HAProxy program")]
    NotHaproxy(String),
}

impl Version {
    /// Runs a program with `-v`. It is killed if it does not end within `timeout`. The daemon uses [`VersionCache`] instead.
    ///
    /// # Errors
    /// The program cannot be run, does not answer, or does not name a HAProxy version.
    pub async fn from_binary(binary: &Path, timeout: Duration) -> Result<Version, VersionError> {
        let name = binary.display().to_string();
        let mut command = Command::new(binary);
        ignore_sigusr2(command.arg("-v"));
        let answer = output_within(&mut command, timeout).await;
        let (_, output) = answer.map_err(|source| match source.kind() {
            io::ErrorKind::TimedOut => VersionError::TimedOut { binary: name.clone(), timeout },
            _ => VersionError::Run { binary: name.clone(), source },
        })?;
        parse(&String::from_utf8_lossy(&output)).ok_or(VersionError::NotHaproxy(name))
    }

    /// Parses a version as HAProxy writes it, such as `2.6.12-1+deb12u4`.
    pub fn from_words(words: &str) -> Option<Version> {
        let mut numbers = words.split(['.', '-']);
        Some(Version { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }

    /// True from `major.minor` on.
    pub fn at_least(self, major: u32, minor: u32) -> bool {
        self >= Version { major, minor }
    }

    /// `_getsocks` and `-x` came with 1.8.
    pub fn passes_sockets(self) -> bool {
        self.at_least(1, 8)
    }

    /// From 2.7 on, the master's CLI answers `reload` when the reload is done.
    pub fn answers_reload(self) -> bool {
        self.at_least(2, 7)
    }

    /// `close-spread-time` came with 2.6.
    pub fn spreads_closing(self) -> bool {
        self.at_least(2, 6)
    }
}

/// The version of a program file, kept as long as the file is the same.
#[derive(Debug, Default)]
pub struct VersionCache(RefCell<Option<(PathBuf, FileIdentity, Version)>>);

type FileIdentity = (u64, u64, i64, i64, u64);

impl VersionCache {
    /// The version of `binary`. The program is asked again when its file was replaced, and killed when it does not answer within `timeout`.
    ///
    /// # Errors
    /// Where it cannot be run, does not answer, or does not name a HAProxy version.
    pub async fn refresh(&self, binary: &Path, timeout: Duration) -> Result<Version, VersionError> {
        let identity =
            identity(binary).map_err(|source| VersionError::Run { binary: binary.display().to_string(), source })?;
        if let Some((path, known, version)) = &*self.0.borrow()
            && path == binary
            && *known == identity
        {
            return Ok(*version);
        }
        let version = Version::from_binary(binary, timeout).await?;
        self.0.replace(Some((binary.to_owned(), identity, version)));
        Ok(version)
    }

    /// The version of `binary` that the last [`refresh`](Self::refresh) found.
    pub fn known(&self, binary: &Path) -> Option<Version> {
        self.0.borrow().as_ref().filter(|(path, ..)| path == binary).map(|(.., version)| *version)
    }
}

fn identity(binary: &Path) -> io::Result<FileIdentity> {
    let metadata = std::fs::metadata(binary)?;
    Ok((metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size()))
}

fn parse(output: &str) -> Option<Version> {
    let first = output.lines().next()?;
    let words = first.strip_prefix("HAProxy version ").or_else(|| first.strip_prefix("HA-Proxy version "))?;
    Version::from_words(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_in_both_spellings_of_the_program_name() {
        let version = |major, minor| Some(Version { major, minor });
        assert_eq!(parse("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n"), version(2, 6));
        assert_eq!(parse("HA-Proxy version 1.8.4-1deb90d 2018/02/08\n"), version(1, 8));
        assert_eq!(parse("HAProxy version 3.2-dev3 2025\n"), version(3, 2));
        assert_eq!(parse("nginx version: nginx/1.22.1\n"), None);
    }
}

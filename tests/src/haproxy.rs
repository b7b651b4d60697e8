//! Runs a real HAProxy, and talks to its runtime API.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::Process;

/// `2.6`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// `2`
    pub major: u32,
    /// `6`
    pub minor: u32,
}

impl Version {
    /// From the first line of `haproxy -v`: "HA-Proxy version 2.2.9-2+deb11u6 …", without the hyphen from 2.4 on.
    pub fn from_banner(banner: &str) -> Option<Version> {
        let (_, rest) = banner.split_once("roxy version ")?;
        let mut numbers = rest.split(|letter: char| !letter.is_ascii_digit());
        Some(Version { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

/// The variable with the path of the HAProxy that tests use, where they name no version.
pub const VARIABLE: &str = "RELOADER_TEST_HAPROXY";

/// The HAProxy that tests use: [`VARIABLE`], or the distribution's.
pub fn default_program() -> PathBuf {
    std::env::var_os(VARIABLE).map_or_else(|| "/usr/sbin/haproxy".into(), PathBuf::from)
}

/// An executable whose version is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaproxyBinary {
    /// The version that it reports.
    pub version: Version,
    /// The path of the executable.
    pub path: PathBuf,
}

impl HaproxyBinary {
    /// Asks the executable at `path` for its version.
    ///
    /// # Errors
    /// If it does not run or does not name a HAProxy version.
    pub fn at(path: impl Into<PathBuf>) -> Result<HaproxyBinary> {
        let path = path.into();
        let output =
            Command::new(&path).arg("-v").output().with_context(|| format!("running {} -v", path.display()))?;
        let banner = String::from_utf8_lossy(&output.stdout);
        match Version::from_banner(&banner) {
            Some(version) if output.status.success() => Ok(HaproxyBinary { version, path }),
            _ => bail!("{} -v: {banner}{}", path.display(), String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// The distribution's HAProxy. Panics if it is not installed.
    pub fn installed() -> HaproxyBinary {
        HaproxyBinary::at(default_program()).expect("package haproxy")
    }

    /// Runs `haproxy -c`.
    pub fn check(&self, config: &Path) -> Output {
        Command::new(&self.path).arg("-c").arg("-f").arg(config).output().expect("running haproxy -c")
    }

    /// Starts it in the background with `-D`: when the parent exits well, its child has bound all sockets.
    ///
    /// # Errors
    /// If it does not start.
    pub fn daemonize(&self, config: &Path, args: &[&str]) -> Result<Haproxy> {
        let pid_file = tempfile::NamedTempFile::new()?;
        let mut command = Command::new(&self.path);
        command.arg("-D").arg("-f").arg(config).arg("-p").arg(pid_file.path()).args(args);
        let done = command.output()?;
        if !done.status.success() {
            bail!("haproxy -D: {}: {}", done.status, String::from_utf8_lossy(&done.stderr));
        }
        let pid: i32 = fs::read_to_string(pid_file.path())?.trim().parse().context("the pid file")?;
        let process = Process::with_pid(pid).with_context(|| format!("haproxy {pid} is gone already"))?;
        Ok(Haproxy { process })
    }
}

impl fmt::Display for HaproxyBinary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "HAProxy {} ({})", self.version, self.path.display())
    }
}

/// A HAProxy that runs without reloader. When it is dropped, it is killed.
pub struct Haproxy {
    /// Its process.
    pub process: Process,
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        self.process.end();
    }
}

/// Sends one command to a stats socket and gives the answer.
///
/// # Errors
/// If the socket does not answer.
pub fn runtime(socket: &Path, command: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    writeln!(stream, "{command}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// One value of `show info`, for example `Pid`.
///
/// # Errors
/// If the socket does not answer, or the value is missing.
pub fn info(socket: &Path, key: &str) -> Result<String> {
    let answer = runtime(socket, "show info")?;
    let value = answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    value.map(str::to_owned).with_context(|| format!("no {key} in: {answer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_banners_of_old_and_new_releases() {
        let version = |banner| Version::from_banner(banner).map(|version| version.to_string());
        assert_eq!(version("HA-Proxy version 2.2.9-2+deb11u6 2023/04/10"), Some("2.2".into()));
        assert_eq!(version("HAProxy version 3.0.11-1+deb13u3 2026/10/01"), Some("3.0".into()));
        assert_eq!(version("haproxy: not found"), None);
    }
}

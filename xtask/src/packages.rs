//! Installs the packages that a task needs, and runs commands. Each command is printed before it runs.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// A registry that does not answer fails the command, and so does another apt that does not end.
const BOUNDS: [&str; 6] =
    ["-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=60", "-o", "DPkg::Lock::Timeout=600"];

/// Installs those of the packages that `dpkg-query` does not report as installed. Does nothing if none is missing.
///
/// # Errors
/// If this is not a Debian or Ubuntu, if there is neither root nor sudo, or if apt-get fails. The message names the packages.
pub(crate) fn ensure_apt(packages: &[&str]) -> anyhow::Result<()> {
    ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "apt-get was not found: install {} with this system's package manager, and try again",
        packages.join(", ")
    );
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    update_apt()?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&missing);
    apt_get(&arguments).with_context(|| format!("could not install {}", missing.join(", ")))
}

/// Fetches the package lists, which a fresh machine does not have.
///
/// # Errors
/// If there is neither root nor sudo, or if apt-get fails.
pub(crate) fn update_apt() -> anyhow::Result<()> {
    apt_get(&["update"])
}

fn missing<'a>(packages: &[&'a str]) -> anyhow::Result<Vec<&'a str>> {
    let mut missing = Vec::new();
    for package in packages {
        if !is_installed(package)? {
            missing.push(*package);
        }
    }
    Ok(missing)
}

fn is_installed(package: &str) -> anyhow::Result<bool> {
    // dpkg also knows packages that were removed but not purged: only the status tells the difference.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output()
        .context("could not run dpkg-query")?;
    Ok(output.status.success() && output.stdout == b"installed")
}

fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("apt-get")
    } else if in_path("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.arg("apt-get");
        sudo
    } else {
        bail!(
            "installing packages needs root, and sudo was not found: run `apt-get {}` as root, and try again",
            arguments.join(" ")
        );
    };
    run(command.args(BOUNDS).args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Whether a program of this name is in PATH.
pub(crate) fn in_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}

/// Prints the command, then runs it with this process's input and output.
///
/// # Errors
/// If it cannot be started, or does not end with status 0.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let line = line_of(command);
    eprintln!("$ {line}");
    let status = command.status().with_context(|| format!("could not start `{line}`"))?;
    ensure!(status.success(), "`{line}` failed: {status}");
    Ok(())
}

fn line_of(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_unknown_to_dpkg_is_missing() {
        if !in_path("dpkg-query") {
            return;
        }
        let found = missing(&["dpkg", "no-such-package-of-reloader"]).unwrap();
        assert_eq!(found, ["no-such-package-of-reloader"]);
    }

    #[test]
    fn failed_command_is_named_in_the_error() {
        let error = run(Command::new("false").arg("--why")).unwrap_err();
        assert_eq!(error.to_string(), "`false --why` failed: exit status: 1");
    }
}

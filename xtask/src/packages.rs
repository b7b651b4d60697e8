//! Installs what a task needs: always says first what it is about to run.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// Installs those of the packages that `dpkg-query` does not know as installed. Does nothing where none is missing.
///
/// # Errors
/// Where this is no Debian or Ubuntu, where neither root nor sudo is to be had, or where apt-get fails: a sentence that names
/// the packages.
pub(crate) fn ensure_apt(packages: &[&str]) -> anyhow::Result<()> {
    ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "there is no apt-get here: install {} in this system's own way, and try again",
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

/// Fetches the lists of what can be installed: on a fresh machine there are none.
///
/// # Errors
/// Where neither root nor sudo is to be had, or where apt-get fails.
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
    // A package that was removed but not purged is known to dpkg too: only the status tells.
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
            "packages can only be installed by root, and there is no sudo: run `apt-get {}` as root, and try again",
            arguments.join(" ")
        );
    };
    run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Whether a program of this name is in PATH.
pub(crate) fn in_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}

/// Prints the command as a shell would take it, then runs it with the terminal's own input and output.
///
/// # Errors
/// Where it cannot be started or does not end with status 0.
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
    fn what_dpkg_does_not_know_is_missing() {
        if !in_path("dpkg-query") {
            return;
        }
        let found = missing(&["dpkg", "no-such-package-of-reloader"]).unwrap();
        assert_eq!(found, ["no-such-package-of-reloader"]);
    }

    #[test]
    fn a_command_that_fails_is_named() {
        let error = run(Command::new("false").arg("--why")).unwrap_err();
        assert_eq!(error.to_string(), "`false --why` failed: exit status: 1");
    }
}

//! Where cargo puts what it builds by a profile, and how it builds programs that need no library of the machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use reloader_tests::cargo::cargo;

/// The name of the directory in `target`, which is not always the profile's own (the Cargo book, "Build cache").
pub(crate) fn directory(profile: &str) -> &str {
    match profile {
        "dev" | "test" => "debug",
        "bench" => "release",
        own => own,
    }
}

/// `cargo build` of all programs. A part of them would give the crates that they share fewer features, and these, with all that
/// depends on them, would be built again.
pub(crate) fn build_programs(profile: &str) -> Command {
    let mut command = cargo();
    command.args(["build", "--locked", "--workspace", "--bins", "--profile", profile]);
    command
}

/// `cargo TASK` by a profile, static.
pub(crate) fn static_cargo(task: &str, profile: &str) -> Command {
    let mut command = cargo();
    // With a target the flags are for the programs alone: build scripts and procedural macros cannot be static.
    command.args([task, "--locked", "--target", &target(), "--profile", profile]);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    command
}

/// Where `static_cargo` puts programs.
///
/// # Errors
/// Where this program was not built by cargo.
pub(crate) fn static_folder(profile: &str) -> Result<PathBuf> {
    Ok(target_folder()?.join(target()).join(directory(profile)))
}

/// cargo's target directory.
///
/// # Errors
/// Where this program was not built by cargo.
pub(crate) fn target_folder() -> Result<PathBuf> {
    Ok(crate::program().ancestors().nth(2).context("xtask is not where cargo builds programs")?.to_owned())
}

fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_own_profiles_share_two_directories() {
        let directories = ["dev", "test", "release", "bench", "guest"].map(directory);
        assert_eq!(directories, ["debug", "debug", "release", "release", "guest"]);
    }
}

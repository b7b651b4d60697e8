//! Builds programs with cargo's profiles, for this machine or static, and tells where cargo puts them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use reloader_tests::cargo::cargo;

/// The name of the profile's directory in `target`. It is not always the profile's name (the Cargo book, "Build cache").
pub(crate) fn directory(profile: &str) -> &str {
    match profile {
        "dev" | "test" => "debug",
        "bench" => "release",
        other => other,
    }
}

/// A `cargo build` of all programs. Building only some of them would enable fewer features in shared crates, and cargo would build these
/// crates, and everything that depends on them, once more.
pub(crate) fn build_programs(profile: &str) -> Command {
    let mut command = cargo();
    command.args(["build", "--locked", "--workspace", "--bins", "--profile", profile]);
    command
}

/// A static `cargo TASK` with this profile.
pub(crate) fn static_cargo(task: &str, profile: &str) -> Command {
    let mut command = cargo();
    // With a target the flags do not apply to build scripts and procedural macros, which cannot be static.
    command.args([task, "--locked", "--target", &target(), "--profile", profile]);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    command
}

/// The directory of the programs that [`static_cargo`] builds.
///
/// # Errors
/// If this program was not built by cargo.
pub(crate) fn static_folder(profile: &str) -> Result<PathBuf> {
    Ok(target_folder()?.join(target()).join(directory(profile)))
}

/// cargo's target directory.
///
/// # Errors
/// If this program was not built by cargo.
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
    fn built_in_profiles_share_two_directories() {
        let directories = ["dev", "test", "release", "bench", "guest"].map(directory);
        assert_eq!(directories, ["debug", "debug", "release", "release", "guest"]);
    }
}

//! Builds a static reloader in `target/dist`, for machines without a compiler or with an older libc.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages::{ensure_apt, run as run_command};
use crate::profile;

/// The packages of `ldd` and `unshare`.
const PACKAGES: [&str; 2] = ["libc-bin", "util-linux"];

/// The arguments of `cargo xtask dist`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The cargo profile to build with
    #[arg(long, default_value = "release")]
    profile: String,
}

impl Default for Arguments {
    fn default() -> Arguments {
        Arguments { profile: "release".into() }
    }
}

/// Builds the program, and verifies that it is static and runs in an empty root.
///
/// # Errors
/// If the build fails, if the program needs a loader or a library, or if it does not run.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut build = profile::static_cargo("build", &arguments.profile);
    run_command(build.args(["--package", "reloader", "--bin", "reloader"]))?;
    let built = profile::static_folder(&arguments.profile)?.join("reloader");
    let folder = profile::target_folder()?.join("dist");
    let program = folder.join(format!("reloader-{}-linux", std::env::consts::ARCH));
    fs::create_dir_all(&folder)?;
    fs::copy(&built, &program).with_context(|| format!("cargo did not build {}", built.display()))?;
    verify(&program)
}

/// Verifies that a program is static and runs in an empty root.
///
/// # Errors
/// If it is not static, or does not run.
pub(crate) fn verify(program: &Path) -> Result<()> {
    ensure_apt(&PACKAGES)?;
    ensure_static(program)?;
    let version = version_in_an_empty_root(program)?;
    println!("{}: {version}, static, {} KiB", program.display(), fs::metadata(program)?.len() / 1024);
    Ok(())
}

fn ensure_static(program: &Path) -> Result<()> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output().context("running ldd")?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let is_static = text.contains("statically linked") || text.contains("not a dynamic executable");
    ensure!(is_static, "{} is not static:\n{text}", program.display());
    Ok(())
}

/// Runs `--version` in a root file system that has this program and nothing else.
fn version_in_an_empty_root(program: &Path) -> Result<String> {
    let root = tempfile::tempdir()?;
    let inside = PathBuf::from("/reloader");
    fs::copy(program, root.path().join("reloader"))?;
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg(format!("--root={}", root.path().display())).arg(inside).arg("--version").env_clear();
    let output = command.output().context("running unshare")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the program does not run in an empty root: {}: {stderr}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

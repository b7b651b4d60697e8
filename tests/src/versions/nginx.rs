//! The nginx that tests run: the distribution's, or that of another suite of Debian.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{apt, cache_dir, kept_or_fetched, locked};

/// The variable with the path of the nginx that tests use.
pub const VARIABLE: &str = "RELOADER_TEST_NGINX";

/// The nginx that tests use: [`VARIABLE`], or the distribution's.
pub fn default_program() -> PathBuf {
    std::env::var_os(VARIABLE).map_or_else(|| "/usr/sbin/nginx".into(), PathBuf::from)
}

/// The nginx of a suite of Debian, such as `sid`. It is fetched once.
///
/// # Errors
/// If the suite has none that runs here.
pub fn of_suite(suite: &str) -> Result<PathBuf> {
    let home = cache_dir().join("nginx");
    let _lock = locked(&home)?;
    let name = format!("nginx of Debian {suite}");
    kept_or_fetched(
        &home.join(suite),
        &name,
        |path| run(path).is_ok(),
        |folder| {
            let path = apt::fetch(suite, "nginx", "usr/sbin/nginx", folder)?;
            run(&path)?;
            Ok(path)
        },
    )
}

/// Shows that its libraries are there.
fn run(program: &Path) -> Result<()> {
    apt::run(Command::new(program).arg("-v"))
}

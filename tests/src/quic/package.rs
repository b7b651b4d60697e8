//! Fetches the clients' Python packages once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::versions::apt::run;

/// The directory of aioquic and its dependencies, which are fetched if the cache does not have them.
///
/// # Errors
/// If they cannot be fetched or imported.
pub fn fetch(cache: &Path) -> Result<PathBuf> {
    fs::create_dir_all(cache).with_context(|| cache.display().to_string())?;
    let lock = File::create(cache.join("aioquic.lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let folder = cache.join("aioquic");
    // The packages are built for one version of Python: another one cannot import them.
    if import(&folder).is_ok() {
        return Ok(folder);
    }
    eprintln!("fetching aioquic (PyPI)");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let pip = ["-m", "pip", "install", "--quiet", "--only-binary=:all:", "aioquic", "--target"];
    run(Command::new("python3").args(pip).arg(&folder)).context("aioquic is not available")?;
    import(&folder).context("aioquic was fetched and cannot be imported")?;
    Ok(folder)
}

fn import(folder: &Path) -> Result<()> {
    run(Command::new("python3").args(["-c", "import aioquic.h3.connection"]).env("PYTHONPATH", folder))
}

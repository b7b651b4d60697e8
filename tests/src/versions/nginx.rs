//! The nginx that tests run: the distribution's, or that of another suite of Debian.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use super::{apt, cache_dir};

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
    fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
    let _lock = Flock::lock(File::create(home.join("lock"))?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let folder = home.join(suite);
    let kept = folder.join("executable");
    if let Ok(path) = fs::read_to_string(&kept).map(PathBuf::from)
        && runs(&path).is_ok()
    {
        return Ok(path);
    }
    eprintln!("fetching nginx of Debian {suite}");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let path = apt::fetch(suite, "nginx", "usr/sbin/nginx", &folder)?;
    runs(&path)?;
    fs::write(&kept, path.as_os_str().as_encoded_bytes())?;
    Ok(path)
}

/// Whether its libraries are there.
fn runs(program: &Path) -> Result<()> {
    apt::run(Command::new(program).arg("-v"))
}

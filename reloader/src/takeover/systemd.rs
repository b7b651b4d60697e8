//! Reads the state of units and changes it, through `systemctl`.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::error::TakeoverError;
use super::files;
use super::unit::Unit;
use crate::process::children;

/// Whether systemd is the init of this machine (sd_booted(3)).
pub(crate) fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Runs `systemctl` with these arguments, waits for its end, and returns what it printed on standard output.
///
/// # Errors
/// [`TakeoverError::Systemctl`], with what it printed on standard error.
pub(super) fn systemctl(words: &[&str]) -> Result<String, TakeoverError> {
    let failed = |message: String| TakeoverError::Systemctl { command: words.join(" "), message };
    let mut command = Command::new("systemctl");
    // A Ctrl-C must not reach `systemctl`: a takeover that has begun is finished or rolled back.
    command.process_group(0).args(words);
    let output = children::output_and_errors(&mut command).map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "))),
    }
}

/// Reads the settings and the state of a unit.
///
/// # Errors
/// [`TakeoverError::NoUnit`], or [`TakeoverError::Systemctl`].
pub(super) fn unit(name: &str) -> Result<Unit, TakeoverError> {
    let show = systemctl(&["show", name])?;
    if Unit::parse(name, &show, "", files::DROP_IN).property("LoadState") != "loaded" {
        return Err(TakeoverError::NoUnit(name.into()));
    }
    Ok(Unit::parse(name, &show, &systemctl(&["cat", name])?, files::DROP_IN))
}

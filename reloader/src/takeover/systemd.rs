//! systemd, by `systemctl`: the one program that the product runs to change the machine.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::TakeoverError;
use super::files;
use super::unit::Unit;
use crate::process::children;

/// Whether it is the init of this machine (sd_booted(3)).
pub(crate) fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Runs `systemctl` with these words, and returns what it printed.
///
/// # Errors
/// With what it said.
pub(super) fn systemctl(words: &[&str]) -> Result<String, TakeoverError> {
    let failed = |said: String| TakeoverError::Systemctl { command: words.join(" "), said };
    let mut command = Command::new("systemctl");
    // A Ctrl-C is for us, and we go through with what was begun.
    command.process_group(0).args(words);
    let output = children::output_and_errors(&mut command).map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "))),
    }
}

/// Everything that it says of a unit.
///
/// # Errors
/// Where it does not know it, or cannot be asked.
pub(super) fn unit(name: &str) -> Result<Unit, TakeoverError> {
    let show = systemctl(&["show", name])?;
    if Unit::parse(name, &show, "", files::DROP_IN).get("LoadState") != "loaded" {
        return Err(TakeoverError::NoUnit(name.into()));
    }
    Ok(Unit::parse(name, &show, &systemctl(&["cat", name])?, files::DROP_IN))
}

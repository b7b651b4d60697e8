//! Reads the state of units and changes it, through `systemctl`.

use std::fs;
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

/// Where units are installed (systemd.unit(5)), below the root directory.
const UNIT_DIRECTORIES: [&str; 4] =
    ["etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];

/// The unit that runs the daemon with this configuration: one that was taken over, or one of reloader's own. `None` where none is known.
pub(crate) fn daemon_unit(config: Option<&Path>) -> Option<String> {
    daemon_unit_below(Path::new("/"), config)
}

fn daemon_unit_below(root: &Path, config: Option<&Path>) -> Option<String> {
    let [own, ..] = UNIT_DIRECTORIES.map(|directory| root.join(directory));
    let runs_with_it = |drop_in: &str| match config {
        Some(path) => drop_in.contains(&format!("--config {} daemon", path.display())),
        None => !drop_in.contains("--config "),
    };
    let taken = fs::read_dir(own).into_iter().flatten().flatten().find_map(|entry| {
        let name = entry.file_name().to_str()?.strip_suffix(".d")?.to_owned();
        let drop_in = fs::read_to_string(entry.path().join(files::DROP_IN)).ok()?;
        runs_with_it(&drop_in).then_some(name)
    });
    let is_installed = |unit: &str| UNIT_DIRECTORIES.iter().any(|place| root.join(place).join(unit).exists());
    taken.or_else(|| match config {
        None => is_installed("reloader.service").then(|| "reloader".into()),
        Some(path) => {
            let name = path.strip_prefix("/etc/reloader").ok()?.to_str()?.strip_suffix(".toml")?;
            is_installed("reloader@.service").then(|| format!("reloader@{name}"))
        }
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_that_runs_the_daemon_is_the_one_of_its_configuration() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let unit = |config: Option<&str>| daemon_unit_below(root.path(), config.map(Path::new));
        assert_eq!(unit(None), None, "no command is named that would fail");
        write("usr/lib/systemd/system/reloader.service", "");
        write("usr/lib/systemd/system/reloader@.service", "");
        assert_eq!(unit(None).as_deref(), Some("reloader"));
        assert_eq!(unit(Some("/etc/reloader/b.toml")).as_deref(), Some("reloader@b"));
        assert_eq!(unit(Some("/opt/b.toml")), None);
        write("etc/systemd/system/haproxy.service.d/zz-reloader.conf", "ExecStart=/bin/reloader daemon\n");
        write(
            "etc/systemd/system/b.service.d/zz-reloader.conf",
            "ExecStart=/bin/reloader --config /opt/b.toml daemon\n",
        );
        assert_eq!(unit(None).as_deref(), Some("haproxy.service"));
        assert_eq!(unit(Some("/opt/b.toml")).as_deref(), Some("b.service"));
    }
}

//! What must be so before anything is changed.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::command_line::{self, Carried};
use super::unit::Unit;
use super::{TakeoverError, files, systemd};
use crate::config::{Config, Mode, OnStop};
use crate::haproxy::master::root_of;
use crate::haproxy::version::Version;
use crate::haproxy::{runtime_api, scan};
use crate::process;

const PATIENCE: Duration = Duration::from_secs(5);

/// A unit that can be taken over.
#[derive(Debug)]
pub(super) struct Ready {
    /// The unit.
    pub unit: Unit,
    /// HAProxy's main process.
    pub pid: u32,
    /// What its command line says.
    pub carried: Carried,
    /// The configuration to write.
    pub config: Option<String>,
}

/// Looks at the unit and at what it runs.
///
/// # Errors
/// The first reason against it.
pub(super) async fn take(name: &str, config_path: Option<&Path>, config: &Config) -> Result<Ready, TakeoverError> {
    let unit = known(name)?;
    if files::drop_in(name).exists() {
        return Err(TakeoverError::AlreadyTaken(name.into()));
    }
    let cannot = |why: String| TakeoverError::CannotCarry { unit: name.into(), why };
    let pid = running(&unit)?;
    let program = process::executable(pid).unwrap_or_default();
    // Asked for its version only if it is called so: another server might start.
    let is_called_so = program.file_name().is_some_and(|name| name.to_string_lossy().contains("haproxy"));
    if !is_called_so || Version::from_binary(&program).is_err() {
        return Err(TakeoverError::NotHaproxy { unit: name.into(), program: program.display().to_string(), pid });
    }
    if let Some(why) = unit.obstacle() {
        return Err(cannot(why));
    }
    if UnixStream::connect(&config.control_socket).is_ok() {
        return Err(TakeoverError::DaemonRuns(config.control_socket.clone()));
    }
    let words = process::command_line(pid).unwrap_or_default();
    let carried = command_line::read(&program, &words).map_err(cannot)?;
    can_be_found(&carried, pid).await.map_err(cannot)?;
    let config = agreed(&carried, config_path, config)?;
    Ok(Ready { unit, pid, carried, config })
}

/// The unit that was taken over and is to be handed back.
///
/// # Errors
/// The first reason against it.
pub(super) fn undo(name: &str, config: &Config) -> Result<Unit, TakeoverError> {
    let unit = known(name)?;
    let drop_in = files::drop_in(name);
    if !drop_in.exists() {
        return Err(TakeoverError::NotTaken { unit: name.into(), drop_in });
    }
    running(&unit)?;
    let cannot = |why: &str| TakeoverError::CannotCarry { unit: name.into(), why: why.into() };
    if config.on_stop == OnStop::Retire {
        return Err(cannot(
            "on-stop = \"retire\" would end HAProxy together with the daemon; set it to \"leave\" and restart the unit first",
        ));
    }
    match unit.starts.len() {
        1 => Ok(unit),
        _ => Err(cannot("it has not one command of its own any more in ExecStart=")),
    }
}

fn known(name: &str) -> Result<Unit, TakeoverError> {
    if !systemd::is_booted() {
        return Err(TakeoverError::NoSystemd);
    }
    systemd::unit(name)
}

fn running(unit: &Unit) -> Result<u32, TakeoverError> {
    let state = unit.get("ActiveState");
    let pid = unit.main_pid().filter(|_| state == "active");
    pid.ok_or_else(|| TakeoverError::NotRunning { unit: unit.name.clone(), state: state.into() })
}

/// The daemon will find it as we do here.
async fn can_be_found(carried: &Carried, pid: u32) -> Result<(), String> {
    let (_, facts) = scan::load(&carried.config)?;
    facts.lasting_program_sentence().map_or(Ok(()), Err)?;
    for socket in &facts.stats_sockets {
        if runtime_api::info(socket, PATIENCE).await.is_ok_and(|info| root_of(info.pid) == pid) {
            return Ok(());
        }
    }
    Err("no `stats socket` with a path that is written out in HAProxy's configuration answers for it, and by that the daemon finds it; \
         add `stats socket /run/haproxy/admin.sock level admin` to the global section, and reload HAProxy"
        .into())
}

/// The configuration to write, where there is none and one is needed.
fn agreed(carried: &Carried, config_path: Option<&Path>, config: &Config) -> Result<Option<String>, TakeoverError> {
    let path = config_path.unwrap_or(Path::new(files::CONFIG));
    if !path.exists() {
        return Ok(files::config_text(carried));
    }
    let disagrees = |why: String| Err(TakeoverError::Disagrees { path: path.into(), why });
    let Some(haproxy) = &config.haproxy else { return disagrees("it has no [haproxy]".into()) };
    let same_program = |one: &Path, other: &Path| one.canonicalize().ok() == other.canonicalize().ok();
    if haproxy.mode != Mode::Supervised {
        return disagrees("mode is \"companion\", in which HAProxy stays under its own unit".into());
    }
    if !same_program(&haproxy.binary, &carried.binary) {
        return disagrees(format!("the unit runs {}", carried.binary.display()));
    }
    if haproxy.config != carried.config || haproxy.args != carried.args {
        let config: Vec<String> = carried.config.iter().map(|path| path.display().to_string()).collect();
        return disagrees(format!(
            "the unit's HAProxy reads {} with the arguments {:?}",
            config.join(", "),
            carried.args
        ));
    }
    Ok(None)
}

//! Checks that a unit can be handed over or back, before anything is changed.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::TakeoverError;
use super::unit::Unit;
use super::{files, systemd};
use crate::config::{Config, Mode, OnStop};
use crate::haproxy::command_line::{self, CommandLine};
use crate::haproxy::master::root_of;
use crate::haproxy::version::Version;
use crate::haproxy::{runtime_api, scan, unit_command};
use crate::process;

/// How long HAProxy's stats socket may take to answer.
const STATS_SOCKET_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a start or a reload of the unit is waited for.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// How often systemd is asked for the state of the unit meanwhile.
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);

/// A unit that can be taken over.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) unit: Unit,
    /// The pid of HAProxy's main process.
    pub(super) pid: u32,
    pub(super) command_line: CommandLine,
    /// The stats socket on which HAProxy answers.
    pub(super) socket: PathBuf,
    /// The configuration to write, where one is needed and there is none.
    pub(super) new_config: Option<String>,
}

/// Checks that the unit runs a HAProxy that the daemon will be able to adopt.
///
/// # Errors
/// The first reason why the daemon could not take the unit over.
pub(super) async fn check_take_over(
    name: &str,
    reloader: &str,
    config_path: Option<&Path>,
    config: &Config,
) -> Result<Candidate, TakeoverError> {
    let unit = settled_unit(name).await?;
    if let Ok(text) = fs::read_to_string(files::drop_in(name)) {
        return Err(match text == files::drop_in_text(&unit, reloader, config) {
            true => TakeoverError::AlreadyTaken(name.into()),
            false => TakeoverError::Outdated(name.into()),
        });
    }
    let obstacle = |reason: String| TakeoverError::Obstacle { unit: name.into(), reason };
    let pid = main_pid(&unit, "start it, or enable reloader.service in its place")?;
    let program = process::executable(pid).unwrap_or_default();
    // Only a program with this name is asked for its version. Another server might start instead.
    if !is_called_haproxy(&program) || Version::from_binary(&program, config.reload.start_timeout).await.is_err() {
        return Err(TakeoverError::NotHaproxy { unit: name.into(), program: program.display().to_string(), pid });
    }
    if let Some(reason) = unit.obstacle() {
        return Err(obstacle(reason));
    }
    if UnixStream::connect(&config.control_socket).is_ok() {
        return Err(TakeoverError::DaemonRuns(config.control_socket.clone()));
    }
    let words = process::command_line(pid).unwrap_or_default();
    let mut command_line = command_line::read(&program, &words).map_err(obstacle)?;
    note_pid_file(&mut command_line, config_path, config);
    let socket = find_stats_socket(&command_line, pid).await.map_err(obstacle)?;
    let new_config = check_config(&unit, &command_line, config_path, config)?;
    Ok(Candidate { unit, pid, command_line, socket, new_config })
}

/// Checks that the unit was taken over and can be handed back.
///
/// # Errors
/// The first reason why the unit cannot be handed back.
pub(super) async fn check_hand_back(name: &str, config: &Config) -> Result<Unit, TakeoverError> {
    let unit = settled_unit(name).await?;
    let drop_in = files::drop_in(name);
    if !drop_in.exists() {
        return Err(TakeoverError::NotTaken { unit: name.into(), drop_in });
    }
    main_pid(&unit, "start it, so that there is a generation whose sockets can be handed back")?;
    let obstacle = |reason: &str| TakeoverError::Obstacle { unit: name.into(), reason: reason.into() };
    if config.on_stop == OnStop::Retire {
        return Err(obstacle(
            "on-stop = \"retire\" would end HAProxy together with the daemon; set it to \"leave\" and restart the unit first",
        ));
    }
    match unit.start_commands.len() {
        1 => Ok(unit),
        _ => Err(obstacle("outside the drop-in its ExecStart= must have exactly one command")),
    }
}

/// A pid file that an existing configuration does not name would keep the pid of a HAProxy that ends with the next reload.
fn note_pid_file(command_line: &mut CommandLine, config_path: Option<&Path>, config: &Config) {
    let is_written = !config_path.unwrap_or(Path::new(files::CONFIG)).exists();
    let kept = config.haproxy.as_ref().and_then(|haproxy| haproxy.pid_file.as_ref());
    if let Some(path) = command_line.pid_file.as_ref().filter(|path| !is_written && kept != Some(path)) {
        command_line.notes.push(format!(
            "nothing keeps the pid file {0} of HAProxy's command line true: add `pid-file = \"{0}\"` to [haproxy] in reloader.toml",
            path.display()
        ));
    }
}

/// The unit, once it neither starts nor reloads. HAProxy announces a reload after `systemctl reload` has returned.
pub(super) async fn settled_unit(name: &str) -> Result<Unit, TakeoverError> {
    if !systemd::is_booted() {
        return Err(TakeoverError::NoSystemd);
    }
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        let unit = systemd::unit(name)?;
        if !unit.is_changing() {
            return Ok(unit);
        }
        if Instant::now() > deadline {
            let state = unit.property("ActiveState").into();
            return Err(TakeoverError::NotSettled { unit: unit.name, state, seconds: SETTLE_LIMIT.as_secs() });
        }
        tokio::time::sleep(SETTLE_INTERVAL).await;
    }
}

/// Whether a program has HAProxy's name.
pub(super) fn is_called_haproxy(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name.to_string_lossy().contains("haproxy"))
}

fn main_pid(unit: &Unit, remedy: &'static str) -> Result<u32, TakeoverError> {
    let state = unit.property("ActiveState");
    let pid = unit.main_pid().filter(|_| state == "active");
    pid.ok_or_else(|| TakeoverError::NotRunning { unit: unit.name.clone(), state: state.into(), remedy })
}

/// Finds HAProxy by its stats sockets, as the daemon will do.
async fn find_stats_socket(command_line: &CommandLine, pid: u32) -> Result<PathBuf, String> {
    let (_, facts) = scan::load(&command_line.config)?;
    facts.lasting_program_sentence().map_or(Ok(()), Err)?;
    for socket in &facts.stats_sockets {
        if runtime_api::info(socket, STATS_SOCKET_TIMEOUT).await.is_ok_and(|info| root_of(info.pid) == pid) {
            return Ok(socket.clone());
        }
    }
    Err("the daemon finds HAProxy by a `stats socket` in its configuration, and none with a literal path answers for this HAProxy; \
         add `stats socket /run/haproxy/admin.sock level admin` to the global section, and reload HAProxy"
        .into())
}

/// Compares the configuration with the command line. Returns the configuration to write, where one is needed and there is none.
fn check_config(
    unit: &Unit,
    command_line: &CommandLine,
    config_path: Option<&Path>,
    config: &Config,
) -> Result<Option<String>, TakeoverError> {
    let path = config_path.unwrap_or(Path::new(files::CONFIG));
    if !path.exists() {
        return Ok(files::config_text(command_line, unit.command_with_variables().as_ref()));
    }
    let disagrees = |reason: String| Err(TakeoverError::ConfigDisagrees { path: path.into(), reason });
    let Some(haproxy) = &config.haproxy else { return disagrees("it has no [haproxy]".into()) };
    let is_same_file = |one: &Path, other: &Path| one.canonicalize().ok() == other.canonicalize().ok();
    if haproxy.mode != Mode::Supervised {
        return disagrees("mode is \"companion\", in which HAProxy stays under its own unit".into());
    }
    // The variables of the unit itself are known to the daemon only.
    if haproxy.unit_command.is_some() && haproxy.unit_command == unit.command_with_variables() {
        return Ok(None);
    }
    let haproxy = &unit_command::resolve(haproxy)
        .map_err(|reason| TakeoverError::ConfigDisagrees { path: path.into(), reason })?;
    if !is_same_file(&haproxy.binary, &command_line.binary) {
        return disagrees(format!("the unit runs {}", command_line.binary.display()));
    }
    if haproxy.config != command_line.config || haproxy.args != command_line.args {
        let config: Vec<String> = command_line.config.iter().map(|path| path.display().to_string()).collect();
        return disagrees(format!(
            "the unit's HAProxy reads {} with the arguments {:?}",
            config.join(", "),
            command_line.args
        ));
    }
    Ok(None)
}

//! `reloader hold --listen ADDR:PORT -- CMD`: holds SYNs while a command stops one server and starts another.

mod arguments;
mod signals;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{CliError, Context, Exit, output};
use crate::config::Config;
use crate::fs::accounts::group_id;
use crate::fs::exclusive_dir::refuse_others_writing;
use crate::hold_command::{self, CaughtSignal, HoldCommand, HoldCommandError, Listen, Outcome};
use crate::process::{Ended, ProcessError};
use crate::receipt::Receipt;
use crate::supervision::Journal;
use crate::sys::{self, Inheritance};
pub(super) use arguments::Arguments;

pub(super) fn run(
    context: &Context,
    arguments: Arguments,
    inheritance: io::Result<Inheritance>,
) -> Result<Exit, CliError> {
    let mut listen = Vec::new();
    for text in &arguments.listen {
        listen.push(hold_command::parse_listen(text).map_err(|error| CliError::new(Exit::Usage, error))?);
    }
    let config = context.config()?;
    let inheritance = inheritance.map_err(|error| failed(format!("cannot read this process's limits: {error}")))?;
    sys::reset_sigchld().map_err(|error| failed(format!("cannot set SIGCHLD: {error}")))?;
    if let Err(error) = sys::raise_descriptor_limit() {
        log::debug!("cannot raise the limit of open files: {error}");
    }
    let directory = &config.runtime_dir;
    refuse_others_writing(directory)
        .map_err(|error| failed(format!("runtime-dir {}: {error}", directory.display())))?;
    let command = command(&arguments, &inheritance)?;
    if let Some(path) = &arguments.netns {
        enter(path).map_err(|reason| failed(format!("--netns {}: {reason}", path.display())))?;
    }
    let hold = hold(&arguments, &config, listen, inheritance);
    Context::runtime()?.block_on(hold_around(context, &config, arguments.format, hold, command))
}

fn failed(message: impl ToString) -> CliError {
    CliError::new(Exit::HoldFailed, message)
}

fn hold(arguments: &Arguments, config: &Config, listen: Vec<Listen>, inheritance: Inheritance) -> HoldCommand {
    HoldCommand {
        listen,
        backend: arguments.backend(),
        max: arguments.max.unwrap_or(config.hold.max),
        capacity: config.hold.capacity,
        runtime_dir: config.runtime_dir.clone(),
        netns_path: arguments.netns.clone(),
        // This link names the same file as long as this process lives, even if a package manager replaces the path.
        program: "/proc/self/exe".into(),
        inheritance,
    }
}

/// The command, with the limits and descriptors that this process was started with. With --json, standard output is for the
/// receipt alone.
fn command(arguments: &Arguments, inheritance: &Inheritance) -> Result<Command, CliError> {
    let (program, words) = arguments.command.split_first().ok_or_else(|| failed("there is no command"))?;
    let mut command = Command::new(program);
    command.args(words);
    if arguments.format.json {
        // The caller reads standard output to its end: neither the guard nor what the command leaves running may keep it open.
        let stderr = rustix::io::fcntl_dupfd_cloexec(io::stderr(), 3)
            .map_err(|error| failed(format!("standard error: {error}")))?;
        command.stdout(Stdio::from(stderr));
    }
    inheritance.pass_descriptors_to(&mut command);
    inheritance.pass_limits_to(&mut command);
    if arguments.netns.is_some() {
        let own = File::open("/proc/self/ns/net").map_err(|error| failed(format!("/proc/self/ns/net: {error}")))?;
        sys::start_in_network_namespace(&mut command, own.into());
    }
    Ok(command)
}

fn enter(network_namespace: &Path) -> Result<(), String> {
    let file = File::open(network_namespace).map_err(|error| error.to_string())?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
        Errno::EPERM => "permission denied: entering it needs CAP_SYS_ADMIN".into(),
        Errno::EINVAL => "it is not a network namespace".into(),
        errno => errno.to_string(),
    })
}

async fn hold_around(
    context: &Context,
    config: &Config,
    format: output::Format,
    hold: HoldCommand,
    command: Command,
) -> Result<Exit, CliError> {
    let mut signals = signals::catch().map_err(|error| failed(format!("cannot catch signals: {error}")))?;
    let outcome = hold_command::run(hold, command, &mut signals, &|_| {}).await.map_err(to_cli_error)?;
    if let Err(error) = store(config, &outcome.receipt) {
        log::debug!("cannot store the receipt in {}: {error}", config.state_dir.display());
    }
    if let Err(error) = show(context, format, &outcome.receipt) {
        eprintln!("reloader: {}", error.message);
    }
    let status = wait_for_status(&outcome, &mut signals).await;
    // The sender of a signal wants the status that the command gave for it. A status of 0 without a listener is not a success.
    let is_commands_own = !outcome.nothing_listens || (outcome.was_interrupted && status != 0);
    Ok(if is_commands_own { Exit::Command(status) } else { Exit::NothingListens })
}

fn to_cli_error(error: HoldCommandError) -> CliError {
    let exit = match &error {
        HoldCommandError::Command(ProcessError::Spawn { source, .. }) => match source.kind() {
            io::ErrorKind::NotFound => Exit::Command(127),
            _ => Exit::Command(126),
        },
        HoldCommandError::Interrupted(signal) => Exit::Command(128 + signal.as_raw() as u8),
        _ => Exit::HoldFailed,
    };
    let was_refused = matches!(error, HoldCommandError::Hold(_) | HoldCommandError::SockDiag(_));
    if was_refused && !rustix::process::geteuid().is_root() {
        let message = format!("only root may hold SYNs, with CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW: {error}");
        return CliError::new(exit, message);
    }
    CliError::new(exit, error)
}

/// Appends the receipt to those of the daemon, where there is a directory for them.
fn store(config: &Config, receipt: &Receipt) -> io::Result<()> {
    let group = group_id(&config.control_group)?;
    let group = group.ok_or_else(|| io::Error::other(format!("there is no group `{}`", config.control_group)))?;
    Journal::new(&config.state_dir, group).append(receipt)
}

fn show(context: &Context, format: output::Format, receipt: &Receipt) -> Result<(), CliError> {
    if format.json {
        return output::json(receipt);
    }
    if let Some(reason) = &receipt.reason {
        eprintln!("reloader: {reason}");
    }
    if !context.quiet && io::stderr().is_terminal() {
        eprintln!("{}: {}", output::outcome(receipt.result), output::hold_line(receipt));
    }
    Ok(())
}

/// Waits for the end of the command, and passes signals on to it. Returns its status as a shell gives it.
async fn wait_for_status(outcome: &Outcome, signals: &mut UnboundedReceiver<CaughtSignal>) -> u8 {
    loop {
        tokio::select! {
            ended = outcome.command.ended() => return match ended {
                Ended::Exited(status) => status as u8,
                Ended::Killed(signal) => 128 + signal as u8,
                Ended::Unknown => 0,
            },
            Some(caught) = signals.recv() => caught.pass_on(&outcome.command),
        }
    }
}

//! `reloader hold --listen ADDR:PORT -- CMD`

use std::ffi::OsString;
use std::fs::File;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Context, Exit, Failure, exit, output};
use crate::config::{self, Config};
use crate::fs::exclusive_dir::refuse_others_writing;
use crate::gate::hold::Backend;
use crate::hold_command::{self, CaughtSignal, HoldCommand, HoldCommandError, Listen, Outcome};
use crate::process::{Ended, ProcessError};
use crate::receipt::Receipt;
use crate::supervision::Journal;
use crate::sys::{self, Inheritance};

/// In its brackets rustdoc would look for a link.
const LISTEN: &str = "What to hold: ADDR:PORT, [ADDR]:PORT, NAME:PORT, or :PORT for every address. Repeatable";

/// Arguments of `reloader hold`.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HOLD)]
pub(super) struct Arguments {
    /// What to hold.
    #[arg(long, required = true, value_name = "ADDR:PORT", help = LISTEN)]
    listen: Vec<String>,
    /// The gate; auto takes eBPF where it can be had.
    #[arg(long, value_name = "GATE", default_value = "auto")]
    backend: Gate,
    /// The longest hold [default: hold.max of the configuration, 5s].
    #[arg(long, value_name = "TIME", value_parser = longest)]
    max: Option<Duration>,
    /// Hold in this network namespace; the command runs in the caller's.
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    #[command(flatten)]
    format: output::Format,
    /// The command that stops one server and starts another. With --json its output goes to standard error.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Gate {
    Auto,
    Ebpf,
    Qdisc,
}

fn longest(text: &str) -> Result<Duration, String> {
    match config::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("0 would end the hold before it began".into()),
        parsed => parsed,
    }
}

pub(super) fn run(
    context: &Context,
    arguments: Arguments,
    inheritance: std::io::Result<Inheritance>,
) -> Result<Exit, Failure> {
    let mut listen = Vec::new();
    for text in &arguments.listen {
        listen.push(hold_command::parse_listen(text).map_err(|error| Failure::new(Exit::Usage, error))?);
    }
    let config = context.config()?;
    let inheritance = inheritance.map_err(|error| failed(format!("cannot read this process's limits: {error}")))?;
    sys::wait_for_children().map_err(|error| failed(format!("cannot set SIGCHLD: {error}")))?;
    if let Err(error) = sys::raise_descriptor_limit() {
        log::debug!("the limit of descriptors cannot be raised: {error}");
    }
    let place = &config.runtime_dir;
    refuse_others_writing(place).map_err(|error| failed(format!("runtime-dir {}: {error}", place.display())))?;
    let command = command(&arguments, &inheritance)?;
    enter(&arguments)?;
    let around = around_of(&arguments, &config, listen, inheritance);
    Context::runtime()?.block_on(held(context, &config, arguments.format, around, command))
}

fn failed(message: impl ToString) -> Failure {
    Failure::new(Exit::HoldFailed, message)
}

fn around_of(arguments: &Arguments, config: &Config, listen: Vec<Listen>, inheritance: Inheritance) -> HoldCommand {
    HoldCommand {
        listen,
        backend: match arguments.backend {
            Gate::Auto => None,
            Gate::Ebpf => Some(Backend::Ebpf),
            Gate::Qdisc => Some(Backend::Qdisc),
        },
        max: arguments.max.unwrap_or(config.hold.max),
        capacity: config.hold.capacity,
        runtime_dir: config.runtime_dir.clone(),
        netns_path: arguments.netns.clone(),
        // The same file as long as this process lives, though a package manager may replace its path.
        program: "/proc/self/exe".into(),
        inheritance,
    }
}

/// With --json, standard output is for the receipt alone.
fn command(arguments: &Arguments, inheritance: &Inheritance) -> Result<Command, Failure> {
    let (program, words) = arguments.command.split_first().ok_or_else(|| failed("there is no command"))?;
    let mut command = Command::new(program);
    command.args(words);
    if arguments.format.json {
        // Neither the guard nor what the command leaves running may keep the caller's pipe open.
        let stderr = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 3)
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

fn enter(arguments: &Arguments) -> Result<(), Failure> {
    let Some(path) = &arguments.netns else { return Ok(()) };
    let entered = File::open(path).map_err(|error| error.to_string()).and_then(|file| {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            nix::errno::Errno::EPERM => "permission denied: entering it needs CAP_SYS_ADMIN".into(),
            nix::errno::Errno::EINVAL => "it is not a network namespace".into(),
            errno => errno.to_string(),
        })
    });
    entered.map_err(|reason| failed(format!("--netns {}: {reason}", path.display())))
}

async fn held(
    context: &Context,
    config: &Config,
    format: output::Format,
    around: HoldCommand,
    command: Command,
) -> Result<Exit, Failure> {
    let mut signals = signals()?;
    let outcome = match hold_command::run(around, command, &mut signals, &|_| {}).await {
        Ok(outcome) => outcome,
        Err(error) => return Err(refusal(error)),
    };
    if let Err(error) = keep(config, &outcome.receipt) {
        log::debug!("the receipt is not kept in {}: {error}", config.state_dir.display());
    }
    if let Err(failure) = show(context, format, &outcome.receipt) {
        eprintln!("reloader: {}", failure.message);
    }
    let status = ended(&outcome, &mut signals).await;
    // Who sent a signal waits for what the command makes of it; but nothing is well where nothing listens.
    let is_own = !outcome.nothing_listens || (outcome.was_interrupted && status != 0);
    Ok(if is_own { Exit::Command(status) } else { Exit::NothingListens })
}

fn refusal(error: HoldCommandError) -> Failure {
    let exit = match &error {
        HoldCommandError::Command(ProcessError::Spawn { source, .. }) => match source.kind() {
            std::io::ErrorKind::NotFound => Exit::Command(127),
            _ => Exit::Command(126),
        },
        HoldCommandError::Interrupted(signal) => Exit::Command(128 + signal.as_raw() as u8),
        _ => Exit::HoldFailed,
    };
    let was_refused = matches!(error, HoldCommandError::Hold(_) | HoldCommandError::SockDiag(_));
    if was_refused && !rustix::process::geteuid().is_root() {
        return Failure::new(
            exit,
            format!("holding SYNs takes root, with CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW: {error}"),
        );
    }
    Failure::new(exit, error)
}

/// The signals that end a command at a terminal or under a service manager.
fn signals() -> Result<UnboundedReceiver<CaughtSignal>, Failure> {
    let (sender, receiver) = unbounded_channel();
    let all = [
        (SignalKind::interrupt(), Signal::INT),
        (SignalKind::terminate(), Signal::TERM),
        (SignalKind::hangup(), Signal::HUP),
        (SignalKind::quit(), Signal::QUIT),
    ];
    let from_terminal = is_in_foreground();
    for (kind, number) in all {
        let caught = signal(kind).map_err(|error| failed(format!("cannot catch signals: {error}")))?;
        let reached_command = from_terminal && matches!(number, Signal::INT | Signal::QUIT);
        tokio::spawn(collect(caught, CaughtSignal { signal: number, reached_command }, sender.clone()));
    }
    Ok(receiver)
}

async fn collect(mut caught: tokio::signal::unix::Signal, what: CaughtSignal, sender: UnboundedSender<CaughtSignal>) {
    while caught.recv().await.is_some() {
        if sender.send(what).is_err() {
            return;
        }
    }
}

/// A terminal sends its signals to all processes of the group in its foreground, the command among them.
fn is_in_foreground() -> bool {
    let group = File::open("/dev/tty").ok().and_then(|terminal| rustix::termios::tcgetpgrp(terminal).ok());
    group.is_some_and(|group| group.as_raw_nonzero().get() == nix::unistd::getpgrp().as_raw())
}

/// Beside the daemon's receipts, where there is a directory for them.
fn keep(config: &Config, receipt: &Receipt) -> std::io::Result<()> {
    let group = crate::fs::groups::group_id(&config.control_group)?;
    let group = group.ok_or_else(|| std::io::Error::other(format!("there is no group `{}`", config.control_group)))?;
    Journal::new(&config.state_dir, group).append(receipt)
}

fn show(context: &Context, format: output::Format, receipt: &Receipt) -> Result<(), Failure> {
    if format.json {
        return output::json(receipt);
    }
    if let Some(reason) = &receipt.reason {
        eprintln!("reloader: {reason}");
    }
    if !context.quiet && std::io::stderr().is_terminal() {
        eprintln!("{}: {}", output::outcome(receipt.result), output::hold_line(receipt));
    }
    Ok(())
}

/// The command's status as a shell gives it. What arrives meanwhile is the command's.
async fn ended(outcome: &Outcome, signals: &mut UnboundedReceiver<CaughtSignal>) -> u8 {
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

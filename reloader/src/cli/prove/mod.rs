//! `reloader prove --target ADDR:PORT`: loads a service while it is reloaded, and tells whether a connection was lost.

mod arguments;
mod daemon_reload;
mod progress_bar;
mod report_file;
mod results;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::resource::{Resource, getrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{CliError, Context, Exit, client, output};
use crate::load::LoadError;
use crate::prove::{
    Findings, Proof, ProofSettings, ProveError, ShellCommand, SignalNumber, TargetSpec, TrialError,
    find_serving_address, json_without_figures, open_sessions, run as run_proof,
};
use crate::sys::{self, Inheritance};
pub(super) use arguments::Arguments;
use daemon_reload::{DaemonReload, Receipts};
use progress_bar::ProgressBar;

/// How many open files `--hold` leaves to the load and to the program itself.
const FILES_FOR_THE_LOAD: u64 = 256;

pub(super) fn run(
    context: &Context,
    arguments: Arguments,
    inheritance: io::Result<Inheritance>,
) -> Result<Exit, CliError> {
    let target = check_usage(&arguments)?;
    let inheritance = inheritance.map_err(|error| internal("cannot read this process's limits", error))?;
    sys::reset_sigchld().map_err(|error| internal("cannot set SIGCHLD", error))?;
    if let Err(error) = sys::raise_descriptor_limit() {
        log::debug!("cannot raise the limit of open files: {error}");
    }
    let doubt = match arguments.reload_command {
        Some(_) => None,
        None => daemon_reload::check(context, &target, arguments.service.as_deref())?,
    };
    if let Some(doubt) = doubt.as_ref().filter(|_| !context.quiet) {
        eprintln!("reloader: {doubt}");
    }
    let settings = arguments.settings(doubt);
    let since = match (arguments.hold, &arguments.reload_command) {
        (Some(_), None) => Receipts::now(context),
        _ => None,
    };
    let address = match find_serving_address(&target, &settings.protocol, arguments.timeout) {
        Ok(address) => address,
        Err(TrialError::Load(error)) => return Err(load_error(error)),
        Err(error) => return refuse_to_begin(&arguments, &settings, &error),
    };
    let load = settings.protocol.load(&target, &address).map_err(load_error)?.timeout(arguments.timeout);
    let sessions = match open_sessions(&target, &settings, &address, arguments.timeout) {
        Ok(sessions) => sessions,
        Err(TrialError::Load(error)) => return Err(load_error(error)),
        Err(error) => return refuse_to_begin(&arguments, &settings, &error),
    };
    let proof = Proof { settings, address: address.to_string(), load, sessions };
    announce(context, &proof);
    let daemon = DaemonReload::new(context, arguments.service.clone(), since);
    let findings = Context::runtime()?.block_on(prove(context, daemon, proof, inheritance))?;
    results::show(context, &arguments, &findings)
}

fn check_usage(arguments: &Arguments) -> Result<TargetSpec, CliError> {
    let usage = |message: String| CliError::new(Exit::Usage, message);
    arguments.protocol().check().map_err(|error| usage(error.to_string()))?;
    if arguments.reload_command.as_ref().is_some_and(|command| command.trim().is_empty()) {
        return Err(usage("--reload-command is empty and would reload nothing; leave it out to ask the daemon".into()));
    }
    if let Some(sessions) = arguments.sessions() {
        sessions.check().map_err(|error| usage(error.to_string()))?;
        check_open_files(sessions.count).map_err(usage)?;
    }
    let target = TargetSpec::parse(&arguments.target).map_err(|error| usage(error.to_string()))?;
    arguments.report.as_deref().map_or(Ok(()), report_file::check).map_err(usage)?;
    Ok(target)
}

/// Checks that this process may open so many sessions beside the load.
fn check_open_files(sessions: usize) -> Result<(), String> {
    let (_, limit) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| format!("cannot read the limit of open files: {error}"))?;
    let most = limit.saturating_sub(FILES_FOR_THE_LOAD);
    if sessions as u64 <= most {
        return Ok(());
    }
    Err(format!(
        "--hold {sessions}: this process may open {limit} files, and the load needs some of them; hold at most {most}, or raise the limit \
         (ulimit -Hn)"
    ))
}

fn internal(what: &str, error: io::Error) -> CliError {
    CliError::new(Exit::Internal, format!("{what}: {error}"))
}

fn load_error(error: LoadError) -> CliError {
    match error {
        LoadError::Unavailable(_) | LoadError::Panicked => CliError::new(Exit::Internal, error),
        _ => CliError::new(Exit::Usage, error),
    }
}

fn refuse_to_begin(arguments: &Arguments, settings: &ProofSettings, error: &TrialError) -> Result<Exit, CliError> {
    let (result, exit) = match error {
        TrialError::Unserved { .. } | TrialError::Session { .. } => ("unserved", Exit::Failed),
        TrialError::NotKept(_) | TrialError::NotHeld(_) => ("unmeasured", Exit::Usage),
        TrialError::Local { .. } => ("unmeasured", Exit::TryAgain),
        TrialError::Load(_) => ("unmeasured", Exit::Internal),
    };
    if arguments.format.json {
        output::json(&json_without_figures(settings, result, &error.to_string()))?;
    }
    Err(CliError::new(exit, error))
}

fn announce(context: &Context, proof: &Proof) {
    if context.quiet {
        return;
    }
    let settings = &proof.settings;
    let by = settings.command.as_ref().map_or("the daemon".to_owned(), |command| format!("`{command}`"));
    let times = if settings.reloads == 1 { "once".to_owned() } else { format!("{} times", settings.reloads) };
    eprintln!(
        "{}: {} at {}/s, reloaded {times} by {by}, {} apart",
        proof.address,
        settings.protocol,
        settings.rate,
        humantime::format_duration(settings.interval)
    );
}

async fn prove(
    context: &Context,
    daemon: DaemonReload<'_>,
    proof: Proof,
    inheritance: Inheritance,
) -> Result<Findings, CliError> {
    let mut signals = catch_signals(context.quiet)?;
    let bar = ProgressBar::new(context, proof.settings.reloads);
    let show = |progress| bar.show(progress);
    let findings = match proof.settings.command.clone() {
        Some(command) => {
            let shell = ShellCommand { command, inheritance: Some(inheritance) };
            run_proof(proof, &shell, &mut signals, &show).await
        }
        None => run_proof(proof, &daemon, &mut signals, &show).await,
    };
    drop(bar);
    findings.map_err(|error| match error {
        ProveError::Abandoned(signal) => CliError::new(Exit::Command(128 + signal as u8), error),
        ProveError::Load(_) => CliError::new(Exit::Internal, error),
    })
}

/// Catches the signals that end a run early. The first one has its effect at the end of the reload that is under way, which may
/// take long. A line on standard error says so.
fn catch_signals(quiet: bool) -> Result<UnboundedReceiver<SignalNumber>, CliError> {
    let (sender, receiver) = unbounded_channel();
    let announced = Arc::new(AtomicBool::new(quiet));
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut caught = signal(kind).map_err(|error| internal("cannot catch signals", error))?;
        let sender = sender.clone();
        let announced = Arc::clone(&announced);
        tokio::spawn(async move {
            while caught.recv().await.is_some() && sender.send(kind.as_raw_value()).is_ok() {
                if !announced.swap(true, Ordering::Relaxed) {
                    eprintln!("reloader: ends when no reload is under way; a second signal ends at once");
                }
            }
        });
    }
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unexpected_error_has_the_internal_status() {
        assert_eq!(load_error(LoadError::ZeroRate).exit, Exit::Usage);
        assert_eq!(load_error(LoadError::Panicked).exit, Exit::Internal);
    }
}

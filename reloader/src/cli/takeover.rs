//! `reloader takeover`: hands a running systemd unit of HAProxy to reloader, or back.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{CliError, Context, Exit, client, output};
use crate::daemon::protocol::{Reply, Request};
use crate::receipt::Outcome;
use crate::supervision::status::Status;
use crate::takeover::{self, DaemonClient, Step, TakeoverError, TakeoverReport, TakeoverRequest};

/// How long the daemon may take for an answer or for the reload.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments of `reloader takeover`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Unit that runs HAProxy.
    #[arg(value_name = "UNIT", default_value = "haproxy.service")]
    unit: String,
    /// Print each file and each command, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Hand the unit back.
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    format: output::Format,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, CliError> {
    if !rustix::process::geteuid().is_root() {
        return Err(CliError::new(Exit::Privilege, "only root may change units; use sudo"));
    }
    let config = context.config()?;
    let unit = match arguments.unit.contains('.') {
        true => arguments.unit.clone(),
        false => format!("{}.service", arguments.unit),
    };
    let reloader = own_command(context)?;
    let request = TakeoverRequest {
        unit: &unit,
        undo: arguments.undo,
        dry_run: arguments.dry_run,
        config_path: context.config_path.as_deref(),
        reloader: &reloader,
    };
    let announces = !context.quiet && !arguments.format.json && !arguments.dry_run && std::io::stderr().is_terminal();
    let announce = |step: &Step| {
        if announces {
            // The terminal may have closed. That error must not stop the takeover halfway.
            let _ = writeln!(std::io::stderr(), "{step}");
        }
    };
    let daemon = ControlSocket { context };
    let takeover = async {
        let _caught = (!arguments.dry_run).then(catch_signals).transpose();
        takeover::run(request, &config, &daemon, &announce).await
    };
    let report = Context::runtime()?.block_on(takeover).map_err(to_cli_error)?;
    show(context, arguments, &report)?;
    Ok(Exit::Done)
}

/// Catches SIGINT (Ctrl-C), SIGTERM and SIGHUP (a lost connection to the machine), so that a takeover that has begun is finished or
/// rolled back.
fn catch_signals() -> std::io::Result<[Signal; 3]> {
    Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?])
}

/// The command by which a unit starts this program. It has `--config` if this process was started with it.
fn own_command(context: &Context) -> Result<String, CliError> {
    let program = std::env::current_exe();
    let program = program
        .map_err(|error| CliError::new(Exit::Internal, format!("cannot read the path of this program: {error}")))?;
    let mut words = vec![program.display().to_string()];
    if let Some(path) = &context.config_path {
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        words.extend(["--config".into(), path.display().to_string()]);
    }
    match words.iter().any(|word| word.contains(char::is_whitespace)) {
        true => Err(CliError::new(
            Exit::Usage,
            format!("a unit cannot run `{}`: move it to a path without spaces", words.join(" ")),
        )),
        false => Ok(words.join(" ")),
    }
}

fn to_cli_error(error: TakeoverError) -> CliError {
    let exit = match error {
        TakeoverError::ConfigDisagrees { .. } => Exit::BadConfiguration,
        _ => Exit::Failed,
    };
    CliError::new(exit, error)
}

fn show(context: &Context, arguments: &Arguments, report: &TakeoverReport) -> Result<(), CliError> {
    if arguments.format.json {
        return output::json(report);
    }
    if arguments.dry_run {
        let rows: Vec<Vec<String>> = report
            .settings
            .iter()
            .map(|row| vec![output::word(&row.fate), row.setting.clone(), row.how.clone()])
            .collect();
        output::print(&output::table(&rows))?;
        let lines: String = report.steps.iter().map(|step| format!("{step}\n")).collect();
        output::print(&lines)?;
    }
    report.notes.iter().for_each(|note| drop(writeln!(std::io::stderr(), "note: {note}")));
    if report.done && !context.quiet {
        let result = if arguments.undo { "is HAProxy's own again" } else { "is reloader's now" };
        let connections = match report.may_have_lost {
            false => "no connection was touched",
            true => "connections that were queued at that moment may be lost, see above",
        };
        output::print(&format!("{} {result}; {connections}\n", report.unit))?;
    }
    Ok(())
}

/// Asks the daemon over its control socket.
struct ControlSocket<'a> {
    context: &'a Context,
}

impl ControlSocket<'_> {
    /// Asks on a thread of its own, because the calling thread is inside a runtime already.
    fn ask(&self, request: &Request) -> Result<Reply, String> {
        let answer = std::thread::scope(|scope| {
            scope.spawn(|| client::ask(self.context, request, client::Timeout::After(DAEMON_TIMEOUT), |_| {})).join()
        });
        let answer = answer.map_err(|_| "internal error while asking the daemon".to_owned())?;
        answer.map_err(|error| error.message)
    }
}

impl DaemonClient for ControlSocket<'_> {
    fn status(&self) -> Result<Status, String> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            other => Err(client::unexpected(&other).message),
        }
    }

    fn reload(&self) -> Result<(), String> {
        match self.ask(&Request::Reload { dry_run: false, service: None, comment: None })? {
            Reply::Receipt { receipt, .. } if receipt.result == Outcome::Proven => Ok(()),
            Reply::Receipt { receipt, .. } => {
                let reason = receipt.reason.clone().unwrap_or_default();
                Err(format!("the reload that comes first was not proven: {reason}; fix that first"))
            }
            other => Err(client::unexpected(&other).message),
        }
    }
}

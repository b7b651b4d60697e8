//! `reloader takeover`

use std::io::{IsTerminal, Write};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Context, Exit, Failure, client, output};
use crate::daemon::protocol::{Reply, Request};
use crate::receipt::Outcome;
use crate::supervision::status::Status;
use crate::takeover::{self, Ask, Asker, Step, TakeoverError};

/// Arguments of `reloader takeover`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The unit that runs HAProxy.
    #[arg(value_name = "UNIT", default_value = "haproxy.service")]
    unit: String,
    /// Print what would be written and done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Hand the unit back.
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    format: output::Format,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(Exit::Privilege, "only root may change units; use sudo"));
    }
    let config = context.config()?;
    let unit = match arguments.unit.contains('.') {
        true => arguments.unit.clone(),
        false => format!("{}.service", arguments.unit),
    };
    let reloader = program(context)?;
    let ask = Ask {
        unit: &unit,
        undo: arguments.undo,
        dry_run: arguments.dry_run,
        config_path: context.config_path.as_deref(),
        reloader: &reloader,
    };
    let speaks = !context.quiet && !arguments.format.json && !arguments.dry_run && std::io::stderr().is_terminal();
    let say = |step: &Step| {
        if speaks {
            // A terminal that has gone is no reason to stop halfway.
            let _ = writeln!(std::io::stderr(), "{step}");
        }
    };
    let asker = Client { context };
    let carried_out = async {
        let _caught = (!arguments.dry_run).then(catch_signals).transpose();
        takeover::run(ask, &config, &asker, &say).await
    };
    let report = Context::runtime()?.block_on(carried_out).map_err(failure)?;
    if arguments.format.json {
        output::json(&report)?;
        return Ok(Exit::Done);
    }
    if arguments.dry_run {
        let lines: String = report.steps.iter().map(|step| format!("{step}\n")).collect();
        output::print(&lines)?;
    }
    report.notes.iter().for_each(|note| drop(writeln!(std::io::stderr(), "note: {note}")));
    if report.done && !context.quiet {
        let whose = if arguments.undo { "is HAProxy's own again" } else { "is reloader's now" };
        output::print(&format!("{unit} {whose}; no connection was touched\n"))?;
    }
    Ok(Exit::Done)
}

/// A Ctrl-C, or a connection to the machine that breaks, must not leave the unit halfway: what was begun is gone through with, or taken back.
fn catch_signals() -> std::io::Result<[Signal; 3]> {
    Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?])
}

/// How the unit is to call this program.
fn program(context: &Context) -> Result<String, Failure> {
    let program = std::env::current_exe();
    let program =
        program.map_err(|error| Failure::new(Exit::Internal, format!("cannot tell which program this is: {error}")))?;
    let mut words = vec![program.display().to_string()];
    if let Some(path) = &context.config_path {
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        words.extend(["--config".into(), path.display().to_string()]);
    }
    match words.iter().any(|word| word.contains(char::is_whitespace)) {
        true => Err(Failure::new(
            Exit::Usage,
            format!("a unit cannot name `{}`: move it to a path without spaces", words.join(" ")),
        )),
        false => Ok(words.join(" ")),
    }
}

fn failure(error: TakeoverError) -> Failure {
    let exit = match error {
        TakeoverError::Disagrees { .. } => Exit::BadConfiguration,
        _ => Exit::Failed,
    };
    Failure::new(exit, error)
}

struct Client<'a> {
    context: &'a Context,
}

impl Client<'_> {
    /// On a thread of its own: this one has a runtime already.
    fn ask(&self, request: &Request) -> Result<Reply, String> {
        let asked = std::thread::scope(|scope| {
            scope.spawn(|| client::ask(self.context, request, Some(client::PATIENCE * 6), |_| {})).join()
        });
        let answered = asked.map_err(|_| "internal error while asking the daemon".to_owned())?;
        answered.map_err(|failure| failure.message)
    }
}

impl Asker for Client<'_> {
    fn status(&self) -> Result<Status, String> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            other => Err(format!("the daemon answered something else: {other:?}")),
        }
    }

    fn reload(&self) -> Result<(), String> {
        match self.ask(&Request::Reload { dry_run: false, service: None })? {
            Reply::Receipt { receipt, .. } if receipt.result == Outcome::Proven => Ok(()),
            Reply::Receipt { receipt, .. } => {
                let reason = receipt.reason.clone().unwrap_or_default();
                Err(format!("the reload that comes first was not proven: {reason}; mend that first"))
            }
            other => Err(format!("the daemon answered something else: {other:?}")),
        }
    }
}

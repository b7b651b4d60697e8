//! `reloader signal`: sends a signal to the processes of a service, for hooks such as log rotation.

use rustix::process::Signal;
use serde_json::json;

use super::{CliError, Context, Exit, client, output};
use crate::daemon::protocol::{Reply, Request};
use crate::process::{signal_by_name, signal_name};

/// Arguments of `reloader signal`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Service: `haproxy`, or the NAME of a `[service.NAME]`.
    #[arg(value_name = "NAME")]
    service: String,
    /// Signal: `USR1`, `SIGUSR1` or its number.
    #[arg(value_name = "SIG", value_parser = parse)]
    signal: Signal,
    #[command(flatten)]
    format: output::Format,
}

fn parse(text: &str) -> Result<Signal, String> {
    signal_by_name(text).ok_or_else(|| "it is not a signal: write USR1, SIGUSR1 or a number".into())
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, CliError> {
    let request = Request::Signal { service: arguments.service.clone(), signal: arguments.signal.as_raw() };
    // During a reload the daemon sends it afterwards.
    let sent = match client::ask(context, &request, client::Timeout::Never, |_| {})? {
        Reply::Signalled { sent } => sent,
        other => return Err(client::unexpected(&other)),
    };
    if arguments.format.json {
        output::json(&json!({ "signal": signal_name(arguments.signal), "sent": sent }))?;
    } else if !context.quiet {
        let to: Vec<String> =
            sent.iter().map(|found| format!("process {} (generation {})", found.pid, found.generation)).collect();
        output::print(&format!("{} was sent to {}\n", signal_name(arguments.signal), to.join(", ")))?;
    }
    Ok(Exit::Done)
}

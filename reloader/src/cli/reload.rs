//! `reloader reload`: reloads a service and waits for the outcome.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::{CliError, Context, Exit, client, output};
use crate::daemon::protocol::{Reply, Request};
use crate::plan::{self, Planned};
use crate::receipt::{Outcome, Receipt};

/// How long to wait until the daemon begins to reload.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Arguments of `reloader reload`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Service to reload [default: haproxy, or the only one].
    #[arg(value_name = "NAME")]
    service: Option<String>,
    #[command(flatten)]
    format: output::Format,
    /// Print the plan, let the server check its configuration, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Text for the receipt, which says who asked for the reload and why.
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// How long to wait for the outcome. The reload goes on after it [default: 30s until the reload has begun, then as long as it takes].
    #[arg(long, value_name = "TIME", value_parser = crate::config::parse_duration)]
    timeout: Option<Duration>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, CliError> {
    let shows_progress = !context.quiet && !arguments.format.json && std::io::stderr().is_terminal();
    let progress = |phase: &str| {
        if shows_progress {
            eprint!("\r\x1b[K{phase} ...");
            let _ = std::io::stderr().flush();
        }
    };
    let request = Request::Reload {
        dry_run: arguments.dry_run,
        service: arguments.service.clone(),
        comment: arguments.comment.clone(),
    };
    let timeout = arguments.timeout.map_or(client::Timeout::UntilBegun(BEGIN_TIMEOUT), client::Timeout::After);
    let reply = client::ask(context, &request, timeout, progress);
    if shows_progress {
        eprint!("\r\x1b[K");
    }
    match reply? {
        Reply::Receipt { receipt, not_stored, serving } => {
            if let Some(reason) = not_stored {
                eprintln!("reloader: {reason}");
            }
            show(context, arguments.format, &receipt)?;
            Ok(exit_for(receipt.result, serving))
        }
        Reply::Plan { plan, serving, refused, checked_by, notes } => {
            let check = ConfigurationCheck { refused, by: checked_by.unwrap_or_default(), notes };
            show_plan(arguments.format, &plan, serving, &check)
        }
        other => Err(client::unexpected(&other)),
    }
}

fn exit_for(outcome: Outcome, serving: bool) -> Exit {
    match outcome {
        Outcome::Proven => Exit::Done,
        Outcome::Unproven => Exit::Unproven,
        Outcome::Failed if serving => Exit::Failed,
        Outcome::Failed => Exit::NothingServes,
    }
}

fn show(context: &Context, format: output::Format, receipt: &Receipt) -> Result<(), CliError> {
    if format.json {
        return output::json(receipt);
    }
    if let Some(reason) = &receipt.reason {
        eprintln!("reloader: {reason}");
    }
    for line in &receipt.server_log {
        eprintln!("  {line}");
    }
    for note in &receipt.notes {
        eprintln!("note: {note}");
    }
    if !context.quiet {
        output::print(&format!("{}: {}\n", output::outcome(receipt.result), output::receipt_line(receipt)))?;
    }
    Ok(())
}

/// The server's check of its configuration on disk.
struct ConfigurationCheck {
    /// The server's messages; empty where it accepts the configuration.
    refused: Vec<String>,
    /// The name of the server.
    by: String,
    notes: Vec<String>,
}

/// What an empty plan means. Pure.
fn why_no_plan(serving: bool) -> &'static str {
    match serving {
        true => "no plan: HAProxy has not said which version it is (see the daemon's log)",
        false => "no generation serves, and nothing is in custody: there is nothing to carry over",
    }
}

fn show_plan(
    format: output::Format,
    plan: &[Planned],
    serving: bool,
    check: &ConfigurationCheck,
) -> Result<Exit, CliError> {
    let ConfigurationCheck { refused, notes, .. } = check;
    if !format.json {
        notes.iter().for_each(|note| eprintln!("note: {note}"));
    }
    if format.json {
        output::json(&serde_json::json!({ "plan": plan, "serving": serving, "refused": refused, "notes": notes }))?;
    } else if plan.is_empty() {
        output::print(&format!("{}\n", why_no_plan(serving)))?;
    } else {
        let row = |planned: &Planned| {
            let rung = output::word(&planned.rung);
            vec![planned.address.clone(), rung, planned.why.clone().unwrap_or_default()]
        };
        output::print(&output::table(&plan.iter().map(row).collect::<Vec<_>>()))?;
    }
    if !refused.is_empty() {
        eprintln!("reloader: {} refuses the configuration on disk: the reload would fail", check.by);
        refused.iter().for_each(|line| eprintln!("  {line}"));
        return Ok(if serving { Exit::Failed } else { Exit::NothingServes });
    }
    Ok(if plan::unproven(plan).is_some() { Exit::Unproven } else { Exit::Done })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_plan_says_that_nothing_serves_only_where_that_is_so() {
        assert!(why_no_plan(false).starts_with("no generation serves"));
        assert!(!why_no_plan(true).contains("serves"));
    }
}

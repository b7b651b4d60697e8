//! `reloader reload`

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::{Context, Exit, Failure, client, output};
use crate::daemon::protocol::{Reply, Request};
use crate::plan::{self, Planned};
use crate::receipt::{Outcome, Receipt};

/// Arguments of `reloader reload`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Which service [default: haproxy, or the only one].
    #[arg(value_name = "NAME")]
    service: Option<String>,
    #[command(flatten)]
    format: output::Format,
    /// Print the plan and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for the outcome; the reload goes on after it.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = crate::config::parse_duration)]
    timeout: Duration,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    let shows_progress = !context.quiet && !arguments.format.json && std::io::stderr().is_terminal();
    let progress = |phase: &str| {
        if shows_progress {
            eprint!("\r\x1b[K{phase} ...");
            let _ = std::io::stderr().flush();
        }
    };
    let request = Request::Reload { dry_run: arguments.dry_run, service: arguments.service.clone() };
    let answered = client::ask(context, &request, Some(arguments.timeout), progress);
    if shows_progress {
        eprint!("\r\x1b[K");
    }
    match answered? {
        Reply::Receipt { receipt, not_stored, serving } => {
            if let Some(reason) = not_stored {
                eprintln!("reloader: {reason}");
            }
            show(context, arguments.format, &receipt)?;
            Ok(exit(&receipt, serving))
        }
        Reply::Plan { plan, serving, refused, checked_by, notes } => {
            let checked = Checked { refused, by: checked_by.unwrap_or_default(), notes };
            show_plan(arguments.format, &plan, serving, &checked)
        }
        other => Err(Failure::new(Exit::Internal, format!("the daemon answered something else: {other:?}"))),
    }
}

fn exit(receipt: &Receipt, serving: bool) -> Exit {
    match receipt.result {
        Outcome::Proven => Exit::Done,
        Outcome::Unproven => Exit::Unproven,
        Outcome::Failed if serving => Exit::Failed,
        Outcome::Failed => Exit::NobodyServes,
    }
}

fn show(context: &Context, format: output::Format, receipt: &Receipt) -> Result<(), Failure> {
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

/// What came of the check of the configuration on disk.
struct Checked {
    refused: Vec<String>,
    by: String,
    notes: Vec<String>,
}

fn show_plan(format: output::Format, plan: &[Planned], serving: bool, checked: &Checked) -> Result<Exit, Failure> {
    let Checked { refused, notes, .. } = checked;
    if !format.json {
        notes.iter().for_each(|note| eprintln!("note: {note}"));
    }
    if format.json {
        output::json(&serde_json::json!({ "plan": plan, "serving": serving, "refused": refused, "notes": notes }))?;
    } else if plan.is_empty() {
        output::print("nothing serves: the new generation will bind everything itself\n")?;
    } else {
        let row = |planned: &Planned| {
            let rung = output::word(&planned.rung);
            vec![planned.address.clone(), rung, planned.why.clone().unwrap_or_default()]
        };
        output::print(&output::table(&plan.iter().map(row).collect::<Vec<_>>()))?;
    }
    if !refused.is_empty() {
        eprintln!("reloader: {} refuses the configuration on disk: the reload would fail", checked.by);
        refused.iter().for_each(|line| eprintln!("  {line}"));
        return Ok(if serving { Exit::Failed } else { Exit::NobodyServes });
    }
    Ok(if plan::unproven(plan).is_some() { Exit::Unproven } else { Exit::Done })
}

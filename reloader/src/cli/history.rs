//! `reloader history`: shows past receipts, newest first.

use std::io;

use serde_json::json;

use super::{CliError, Context, Exit, output};
use crate::config::{Config, HAPROXY};
use crate::receipt::{Kind, Outcome, Receipt, changes};
use crate::supervision::read_newest;

/// With `--diff` this many receipts more are read, to find the one before.
const EARLIER: usize = 100;

/// Arguments of `reloader history`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    format: output::Format,
    /// Largest number of receipts.
    #[arg(short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Show which files of the configuration changed since the generation before.
    #[arg(long)]
    diff: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, CliError> {
    let config = context.config()?;
    let count = arguments.count as usize;
    // The generation before the last one that is shown may be some receipts back.
    let read = if arguments.diff { count.saturating_mul(2).saturating_add(EARLIER) } else { count };
    let all = read_newest(&config.state_dir, read).map_err(|error| read_error(&config, &error))?;
    let receipts = &all[..all.len().min(count)];
    if receipts.is_empty() && !context.quiet {
        eprintln!("there are no receipts yet in {}", config.state_dir.display());
    }
    if arguments.diff {
        return show_changes(arguments.format, &all, receipts.len());
    }
    if arguments.format.json {
        for receipt in receipts {
            output::json(receipt)?;
        }
    } else {
        output::print(&output::table(&receipts.iter().map(row).collect::<Vec<_>>()))?;
    }
    Ok(Exit::Done)
}

/// Prints the receipts that have a configuration, each with the files in which it differs from the one before.
fn show_changes(format: output::Format, all: &[Receipt], shown: usize) -> Result<Exit, CliError> {
    let mut rows = Vec::new();
    for (place, receipt) in all.iter().enumerate().take(shown) {
        let Some(after) = &receipt.configuration else { continue };
        let is_before = |earlier: &&Receipt| {
            earlier.service == receipt.service && earlier.result != Outcome::Failed && earlier.configuration.is_some()
        };
        let before = all[place + 1..].iter().find(is_before);
        let changed = before.and_then(|before| before.configuration.as_ref()).map(|before| changes(before, after));
        if format.json {
            let files = changed.as_ref().map(|changed| {
                changed.iter().map(|(path, change)| json!({ "path": path, "change": change })).collect::<Vec<_>>()
            });
            output::json(&json!({
                "id": receipt.id, "at": receipt.at, "service": receipt.service, "new": receipt.new, "changes": files,
            }))?;
            continue;
        }
        rows.push(row(receipt));
        match changed.as_deref() {
            None => rows.push(vec![String::new(), "no earlier configuration is known".into()]),
            Some([]) => rows.push(vec![String::new(), "nothing changed".into()]),
            Some(files) => {
                rows.extend(
                    files.iter().map(|(path, change)| vec![String::new(), output::word(change), (*path).to_owned()]),
                );
            }
        }
    }
    if !format.json {
        output::print(&output::table(&rows))?;
    }
    Ok(Exit::Done)
}

fn read_error(config: &Config, error: &io::Error) -> CliError {
    let directory = config.state_dir.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => CliError::new(
            Exit::Privilege,
            format!("only root and the group `{}` may read the receipts in {directory}", config.control_group),
        ),
        _ => CliError::new(Exit::Internal, format!("cannot read the receipts in {directory}: {error}")),
    }
}

fn row(receipt: &Receipt) -> Vec<String> {
    let kind = output::word(&receipt.kind);
    let mut summary = match receipt.kind {
        Kind::Hold => output::hold_line(receipt),
        _ => output::receipt_line(receipt),
    };
    if let Some(name) = receipt.service.as_ref().filter(|name| *name != HAPROXY) {
        summary.insert_str(0, &format!("{name}: "));
    }
    if let Some(reason) = &receipt.reason {
        summary.push_str(&format!("; {reason}"));
    }
    vec![receipt.at.clone(), kind, output::outcome(receipt.result), summary]
}

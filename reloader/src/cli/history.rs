//! `reloader history`: shows past receipts, newest first.

use std::io;

use serde_json::json;

use super::{CliError, Context, Exit, output};
use crate::config::{Config, HAPROXY};
use crate::receipt::{FileChange, Kind, Outcome, Receipt, changes};
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
        return show_changes(arguments.format, &with_changes(&all, receipts.len()));
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

/// The files in which a configuration differs from the one before. `None` if that is not known.
type Changes<'a> = Option<Vec<(&'a str, FileChange)>>;

/// The receipts with a configuration among the first `shown`, each with its changes.
fn with_changes(all: &[Receipt], shown: usize) -> Vec<(&Receipt, Changes<'_>)> {
    let compared = (0..shown).filter_map(|place| {
        let receipt = &all[place];
        let after = receipt.configuration.as_ref()?;
        let is_before = |earlier: &&Receipt| earlier.service == receipt.service && earlier.result != Outcome::Failed;
        let mut before = all[place + 1..].iter().filter(is_before).filter_map(|earlier| earlier.configuration.as_ref());
        Some((receipt, before.next().map(|before| changes(before, after))))
    });
    compared.collect()
}

fn show_changes(format: output::Format, compared: &[(&Receipt, Changes<'_>)]) -> Result<Exit, CliError> {
    if format.json {
        for (receipt, changed) in compared {
            let file = |(path, change): &(&str, FileChange)| json!({ "path": path, "change": change });
            let files = changed.as_ref().map(|changed| changed.iter().map(file).collect::<Vec<_>>());
            output::json(&json!({
                "id": receipt.id, "at": receipt.at, "service": receipt.service, "new": receipt.new, "changes": files,
            }))?;
        }
    } else {
        let rows = compared
            .iter()
            .flat_map(|(receipt, changed)| std::iter::once(row(receipt)).chain(change_rows(changed.as_deref())));
        output::print(&output::table(&rows.collect::<Vec<_>>()))?;
    }
    Ok(Exit::Done)
}

fn change_rows(changed: Option<&[(&str, FileChange)]>) -> Vec<Vec<String>> {
    match changed {
        None => vec![vec![String::new(), "no earlier configuration is known".into()]],
        Some([]) => vec![vec![String::new(), "nothing changed".into()]],
        Some(files) => {
            files.iter().map(|(path, change)| vec![String::new(), output::word(change), (*path).to_owned()]).collect()
        }
    }
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

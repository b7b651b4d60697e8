//! `reloader history`: shows past receipts, newest first.

use std::io;

use super::{CliError, Context, Exit, output};
use crate::config::{Config, HAPROXY};
use crate::receipt::{Kind, Receipt};
use crate::supervision::read_newest;

/// Arguments of `reloader history`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    format: output::Format,
    /// Largest number of receipts.
    #[arg(short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, CliError> {
    let config = context.config()?;
    let receipts =
        read_newest(&config.state_dir, arguments.count as usize).map_err(|error| read_error(&config, &error))?;
    if receipts.is_empty() && !context.quiet {
        eprintln!("there are no receipts yet in {}", config.state_dir.display());
    }
    if arguments.format.json {
        for receipt in &receipts {
            output::json(receipt)?;
        }
    } else {
        output::print(&output::table(&receipts.iter().map(row).collect::<Vec<_>>()))?;
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

//! `reloader history`

use std::io;

use super::{Context, Exit, Failure, output};
use crate::config::HAPROXY;
use crate::receipt::{Kind, Receipt};
use crate::supervision::read_newest;

/// Arguments of `reloader history`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    format: output::Format,
    /// At most so many.
    #[arg(short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    let config = context.config()?;
    let receipts = read_newest(&config.state_dir, arguments.count as usize).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::Privilege,
            format!(
                "the receipts in {} are open to root and the group `{}` only",
                config.state_dir.display(),
                config.control_group
            ),
        ),
        _ => {
            Failure::new(Exit::Internal, format!("cannot read the receipts in {}: {error}", config.state_dir.display()))
        }
    })?;
    if receipts.is_empty() && !context.quiet {
        eprintln!("no receipts yet in {}", config.state_dir.display());
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

fn row(receipt: &Receipt) -> Vec<String> {
    let kind = output::word(&receipt.kind);
    let mut what = match receipt.kind {
        Kind::Hold => output::hold_line(receipt),
        _ => output::receipt_line(receipt),
    };
    if let Some(name) = receipt.service.as_ref().filter(|name| *name != HAPROXY) {
        what.insert_str(0, &format!("{name}: "));
    }
    if let Some(reason) = &receipt.reason {
        what.push_str(&format!("; {reason}"));
    }
    vec![receipt.at.clone(), kind, output::outcome(receipt.result), what]
}

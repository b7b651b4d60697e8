//! Output shared by the commands.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::{Exit, Failure};
use crate::receipt::{ListenerReceipt, Outcome, Receipt, Rung};

/// For people or for scripts.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Format {
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// Prints one JSON value on a line. A reader that has gone (`| head`) is no error.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::new(Exit::Internal, error))?;
    print(&format!("{text}\n"))
}

/// Prints text. A reader that has gone (`| head`) is no error; a full disk is.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Internal, format!("cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Aligns cells in columns; the last one is not padded.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  ", width = *width));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The word for an outcome, painted.
pub(super) fn outcome(result: Outcome) -> String {
    let (word, colour) = match result {
        Outcome::Proven => ("proven", 32),
        Outcome::Unproven => ("unproven", 33),
        Outcome::Failed => ("failed", 31),
    };
    painted(word, colour)
}

/// A word in one of the terminal's colours, by its number; plain elsewhere, and where NO_COLOR says so.
pub(super) fn painted(word: &str, colour: u8) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || !std::io::stdout().is_terminal();
    if plain { word.to_owned() } else { format!("\x1b[{colour}m{word}\x1b[0m") }
}

/// The word that a unit variant has in JSON, so that people and scripts read the same.
pub(super) fn word(variant: &impl Serialize) -> String {
    let value = serde_json::to_value(variant).ok();
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// One line for a receipt: what happened to how many listeners, in which time, with which loss.
pub(super) fn receipt_line(receipt: &Receipt) -> String {
    let generation = match (&receipt.old, &receipt.new) {
        (Some(old), Some(new)) if old != new => format!("{} -> {}", old.generation, new.generation),
        (_, Some(new)) => new.generation.to_string(),
        (Some(old), None) if receipt.nothing_serves => format!("{} -> none, and nothing serves", old.generation),
        (Some(old), None) => format!("{} stays", old.generation),
        (None, None) => "none".into(),
    };
    let total = receipt.phases_us.total.unwrap_or(0) as f64 / 1000.0;
    let mut line = format!("generation {generation}{}, {total:.0} ms", rungs(&receipt.listeners));
    if receipt.coalesced > 0 {
        line.push_str(&format!(", {} more requests answered", receipt.coalesced));
    }
    for (what, lost) in
        [("abandoned", receipt.lost.abandoned), ("undrained", receipt.lost.undrained), ("cut", receipt.lost.cut)]
    {
        match lost {
            Some(0) => {}
            Some(lost) => line.push_str(&format!(", {lost} {what}")),
            None => line.push_str(&format!(", {what} unknown")),
        }
    }
    if let Some(seen) = receipt.syns.seen {
        line.push_str(&format!(", {seen} {}", if seen == 1 { "SYN" } else { "SYNs" }));
    }
    line
}

/// One line for a hold around a command.
pub(super) fn hold_line(receipt: &Receipt) -> String {
    let syns = &receipt.syns;
    let total = receipt.phases_us.total.unwrap_or(0) as f64 / 1000.0;
    let mut line = format!(
        "{} SYNs held, the longest for {:.0} ms{}, {total:.0} ms",
        syns.held,
        syns.longest_hold_us as f64 / 1000.0,
        rungs(&receipt.listeners)
    );
    if syns.dropped > 0 {
        line.push_str(&format!(", {} lost", syns.dropped));
    }
    line
}

/// How many listeners got which rung, each behind a comma.
fn rungs(listeners: &[ListenerReceipt]) -> String {
    let names = [
        (Rung::Passed, "passed"),
        (Rung::Steered, "steered"),
        (Rung::HeldEbpf, "held-ebpf"),
        (Rung::HeldQdisc, "held-qdisc"),
        (Rung::Replaced, "replaced"),
        (Rung::Added, "added"),
        (Rung::Removed, "removed"),
        (Rung::Unproven, "unproven"),
    ];
    let counted = names.iter().filter_map(|(rung, name)| {
        let count = listeners.iter().filter(|listener| listener.rung == *rung).count();
        (count > 0).then(|| format!("{count} {name}"))
    });
    counted.map(|text| format!(", {text}")).collect()
}

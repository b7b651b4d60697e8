//! Prints and formats what several commands show.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::{CliError, Exit};
use crate::receipt::{Kind, ListenerReceipt, Outcome, Receipt, Rung};

/// The format of a command's output.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Format {
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// Prints a JSON value on one line. A closed pipe (`| head`) is not an error.
pub(super) fn json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string(value).map_err(|error| CliError::new(Exit::Internal, error))?;
    print(&format!("{text}\n"))
}

/// Prints text. A closed pipe (`| head`) is not an error, a full disk is.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::new(Exit::Internal, format!("cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Aligns cells in columns. The last cell of a row is not padded.
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

/// The word for an outcome, coloured.
pub(super) fn outcome(result: Outcome) -> String {
    let (word, colour) = match result {
        Outcome::Proven => ("proven", 32),
        Outcome::Unproven => ("unproven", 33),
        Outcome::Failed => ("failed", 31),
    };
    painted(word, colour)
}

/// A word in a colour of the terminal: an SGR number such as 31 for red. It stays plain where standard output is not a
/// terminal, and where NO_COLOR is set.
pub(super) fn painted(word: &str, colour: u8) -> String {
    let is_plain =
        std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || !std::io::stdout().is_terminal();
    if is_plain { word.to_owned() } else { format!("\x1b[{colour}m{word}\x1b[0m") }
}

/// The word that a unit variant has in JSON. People and scripts read the same words.
pub(super) fn word(variant: &impl Serialize) -> String {
    let value = serde_json::to_value(variant).ok();
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// One line about a receipt: the generation, the rungs of the listeners, the time and the losses.
pub(super) fn receipt_line(receipt: &Receipt) -> String {
    let generation = match (&receipt.old, &receipt.new) {
        (Some(old), Some(new)) if old != new => format!("{} -> {}", old.generation, new.generation),
        (_, Some(new)) => new.generation.to_string(),
        (Some(old), None) if receipt.nothing_serves => format!("{} -> none, and nothing serves", old.generation),
        (Some(old), None) if receipt.kind == Kind::End => format!("{} ended", old.generation),
        (Some(old), None) => format!("{} stays", old.generation),
        (None, None) => "none".into(),
    };
    let total = receipt.phases_us.total.unwrap_or(0) as f64 / 1000.0;
    let mut line = format!("generation {generation}{}, {total:.0} ms", rungs(&receipt.listeners));
    if receipt.unchanged == Some(true) {
        line.push_str(", configuration unchanged");
    }
    if receipt.coalesced > 0 {
        line.push_str(&format!(", answers {} more requests", receipt.coalesced));
    }
    for (word, lost) in
        [("abandoned", receipt.lost.abandoned), ("undrained", receipt.lost.undrained), ("cut", receipt.lost.cut)]
    {
        match lost {
            Some(0) => {}
            Some(lost) => line.push_str(&format!(", {lost} {word}")),
            None => line.push_str(&format!(", {word} unknown")),
        }
    }
    if let Some(seen) = receipt.syns.seen {
        line.push_str(&format!(", {seen} {}", if seen == 1 { "SYN" } else { "SYNs" }));
    }
    line
}

/// One line about the receipt of a hold around a command.
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

/// The number of listeners on each rung, each after a comma.
fn rungs(listeners: &[ListenerReceipt]) -> String {
    let order = [
        Rung::Passed,
        Rung::Steered,
        Rung::HeldEbpf,
        Rung::HeldQdisc,
        Rung::Replaced,
        Rung::Added,
        Rung::Removed,
        Rung::Unproven,
    ];
    let counted = order.iter().filter_map(|rung| {
        let count = listeners.iter().filter(|listener| listener.rung == *rung).count();
        (count > 0).then(|| format!(", {count} {}", word(rung)))
    });
    counted.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::receipt::{Failure, GenerationId, ReasonCode, Recorder};

    #[test]
    fn generation_is_said_to_stay_only_where_it_stays() {
        let line = |kind, outcome| {
            let old = GenerationId { generation: 3, pid: 7 };
            receipt_line(&Recorder::begin(None, kind, Instant::now(), 0, Some(old)).finish(outcome))
        };
        let failed = || Err(Failure::new(ReasonCode::StartFailed, "it failed"));
        assert!(line(Kind::Reload, failed()).starts_with("generation 3 stays"));
        assert!(line(Kind::End, Ok(())).starts_with("generation 3 ended"));
    }
}

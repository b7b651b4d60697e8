//! Formats the table of the demo.

use reloader_tests::load::Summary;

use super::events::{KILL, Played};

const HEAD: [&str; 9] = ["", "connections", "refused", "reset", "empty", "timed out", "p50 ms", "p99 ms", "max ms"];

/// One row for each kind of event, then one line for each receipt.
pub(super) fn text(played: &Played) -> String {
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(played.outcomes.by_window(&played.windows).iter().map(|(label, summary)| row(label, summary)));
    rows.push(row("all", &played.outcomes.summary()));
    let mut text = aligned(&rows);
    text.push_str(
        "\nA connection counts for the event that it overlaps. A connection inside a killed HAProxy is reset.\n\n",
    );
    text.push_str(&verdict(played));
    text.push_str("receipts, newest first:\n");
    text.push_str(&played.history);
    text
}

fn verdict(played: &Played) -> String {
    let (mut refused, mut by_reloads, mut by_kills) = (0, 0, 0);
    for (label, summary) in played.outcomes.by_window(&played.windows) {
        refused += summary.refused;
        let lost = summary.failed() - summary.refused;
        *(if label == KILL { &mut by_kills } else { &mut by_reloads }) += lost;
    }
    format!("{refused} refused, {by_reloads} lost to reloads, {by_kills} were inside a HAProxy that was killed\n\n")
}

fn row(label: &str, summary: &Summary) -> Vec<String> {
    let ms = |micros: u64| format!("{:.1}", micros as f64 / 1000.0);
    let latency = |quantile| ms(summary.latency.value_at_quantile(quantile));
    let counts = [summary.connections, summary.refused, summary.reset(), summary.empty, summary.timeout];
    let mut cells = vec![label.to_owned()];
    cells.extend(counts.map(|count| count.to_string()));
    cells.extend([latency(0.5), latency(0.99), ms(summary.latency.max())]);
    cells
}

/// Aligns the first column to the left and the figures to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        text.push_str(&format!("{:<width$}", row[0], width = width(0)));
        for (column, cell) in row.iter().enumerate().skip(1) {
            text.push_str(&format!("  {cell:>width$}", width = width(column)));
        }
        text.push('\n');
    }
    text
}

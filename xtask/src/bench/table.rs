//! Formats the table and the remarks on it, as text and as Markdown. Pure.

use reloader::page::thousands;
use reloader_tests::bench::Figures;

use super::document::{Document, Headline, Row};

pub(super) const HEAD: [&str; 11] = [
    "",
    "connections",
    "lost",
    "lost per million",
    "late per million",
    "p50",
    "p99",
    "p99.9",
    "max",
    "CPU s per million",
    "s per reload",
];

/// The cells of a row, or the reason why it has none.
pub(super) enum Line {
    Cells(Box<[String; HEAD.len()]>),
    Reason { title: String, reason: String },
}

/// The lines of the table. A number in brackets refers to a remark.
pub(super) fn lines(document: &Document) -> Vec<Line> {
    let mut number = 0;
    let line = |row: &Row| {
        let mut title = row.way.title().to_owned();
        if remark(document, row).is_some() {
            number += 1;
            title += &format!(" ({number})");
        }
        match (&row.headline, &row.not_run) {
            (Some(headline), _) => Line::Cells(Box::new(cells(title, headline, row.guest.is_some()))),
            (None, reason) => Line::Reason { title, reason: why(row.failed, reason.as_deref().unwrap_or_default()) },
        }
    };
    document.rows.iter().map(line).collect()
}

fn why(failed: bool, reason: &str) -> String {
    format!("{}: {reason}", if failed { "failed" } else { "not run" })
}

/// The remarks below the table, in the order of their numbers.
pub(super) fn remarks(document: &Document) -> Vec<String> {
    document.rows.iter().filter_map(|row| remark(document, row)).collect()
}

fn remark(document: &Document, row: &Row) -> Option<String> {
    let figures = row.figures.as_ref()?;
    let guest = row.guest.as_deref().map(|kernel| in_guest(kernel, figures));
    let differences = row.machine.as_ref().map(|machine| machine.differences_from(&document.machine).join(", "));
    let apart = differences.map(|differences| format!("Measured apart from the others: {differences}"));
    let doubt = row.doubt.as_deref().map(capitalised);
    let sentences: Vec<String> = [guest, doubt, apart].into_iter().flatten().collect();
    (!sentences.is_empty()).then(|| sentences.join(". ") + ".")
}

fn in_guest(kernel: &str, figures: &Figures) -> String {
    let reloads = figures.reloads_us.len() as u64;
    format!(
        "Measured on Linux {kernel} in a virtual machine, with reloader built with profile guest: {} connections at {}/s through {} \
         reloads, one for {} connections; {} of the connections were late. There are no figures per million, and the times cannot be \
         compared with the others, because the guest has a clock of its own",
        thousands(figures.connections),
        thousands(figures.rate.into()),
        thousands(reloads),
        thousands(figures.connections / reloads.max(1)),
        match figures.late {
            0 => "none".into(),
            late => thousands(late),
        }
    )
}

/// The cells of a row. A guest has fewer connections for each reload, so its figures per million cannot be compared.
fn cells(title: String, headline: &Headline, is_guest: bool) -> [String; HEAD.len()] {
    let comparable = |cell: String| if is_guest { "–".to_owned() } else { cell };
    [
        title,
        thousands(headline.connections),
        thousands(headline.lost),
        comparable(rate(headline.lost_per_million)),
        comparable(rate(headline.late_per_million)),
        latency(headline.p50_us),
        latency(headline.p99_us),
        latency(headline.p999_us),
        latency(headline.max_us),
        comparable(format!("{:.0}", headline.cpu_seconds_per_million)),
        format!("{:.3}", headline.seconds_per_reload),
    ]
}

fn rate(per_million: f64) -> String {
    thousands(per_million.round() as u64)
}

/// A latency with at least two digits.
pub(super) fn latency(micros: u64) -> String {
    let ms = micros as f64 / 1e3;
    match ms {
        0.0..10.0 => format!("{ms:.1} ms"),
        10.0..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

/// How and where the figures were measured.
pub(super) fn about(document: &Document) -> String {
    let (load, machine) = (&document.load, &document.machine);
    let some = match load.others_rounds < load.rounds {
        true => format!(", the ways without reloader in {} of them", load.others_rounds),
        false => String::new(),
    };
    format!(
        "{} new connections for each way, {} a second, through {} reloads; {} rounds, each with a share of every way{some}. {}, {}, \
         {}, reloader {} ({}), {}.",
        thousands(load.connections),
        thousands(load.rate.into()),
        thousands(load.reloads),
        load.rounds,
        machine.processors,
        machine.kernel,
        machine.haproxy,
        machine.reloader,
        machine.profile,
        machine.day
    )
}

/// The load and the machine, in short.
pub(super) fn about_load(document: &Document) -> String {
    let (load, machine) = (&document.load, &document.machine);
    format!(
        "{} new connections a second, and a reload for each {}. {}, {}, {}.",
        thousands(load.rate.into()),
        thousands(load.connections / load.reloads.max(1)),
        machine.haproxy,
        machine.kernel,
        machine.day
    )
}

/// One sentence each about the worst and the best way; empty if fewer than two ways can be compared.
pub(super) fn verdicts(document: &Document) -> Vec<String> {
    let ranked = document.ranked();
    let (Some(worst), Some(best)) = (ranked.first(), ranked.last()) else { return Vec::new() };
    if worst.way == best.way {
        return Vec::new();
    }
    vec![verdict("Worst", worst), verdict("Best", best)]
}

fn verdict(word: &str, row: &Row) -> String {
    let Some(headline) = &row.headline else { return String::new() };
    let lost = match headline.lost {
        0 => "none".into(),
        lost => thousands(lost),
    };
    format!(
        "{word}: {}, {lost} of {} lost, one in a thousand served took more than {}. {}",
        row.way.title(),
        thousands(headline.connections),
        latency(headline.p999_us),
        row.way.note()
    )
}

/// The table and its remarks for a terminal.
pub(super) fn text(document: &Document) -> String {
    let lines = lines(document);
    let mut widths = HEAD.map(str::len);
    for line in &lines {
        match line {
            Line::Cells(cells) => {
                cells.iter().zip(&mut widths).for_each(|(cell, width)| *width = (*width).max(cell.chars().count()))
            }
            Line::Reason { title, .. } => widths[0] = widths[0].max(title.len()),
        }
    }
    let aligned = |cells: [&str; HEAD.len()]| {
        let rest = cells.iter().zip(widths).skip(1).map(|(cell, width)| format!("  {cell:>width$}"));
        format!("{:<width$}{}\n", cells[0], rest.collect::<String>(), width = widths[0])
    };
    let mut text = aligned(HEAD);
    for line in &lines {
        text += &match line {
            Line::Cells(cells) => aligned(cells.each_ref().map(String::as_str)),
            Line::Reason { title, reason } => format!("{title:<width$}  {reason}\n", width = widths[0]),
        };
    }
    for (number, remark) in remarks(document).iter().enumerate() {
        text += &format!("({}) {remark}\n", number + 1);
    }
    for sentence in std::iter::once(about(document)).chain(verdicts(document)) {
        text += &format!("{sentence}\n");
    }
    text
}

/// The named columns behind the title, as Markdown.
pub(super) fn markdown(document: &Document, columns: &[&str]) -> String {
    let chosen: Vec<usize> =
        (0..HEAD.len()).filter(|column| *column == 0 || columns.contains(&HEAD[*column])).collect();
    let row = |cells: &[String]| {
        let cells = chosen.iter().map(|column| format!(" {} |", cells[*column]));
        format!("|{}\n", cells.collect::<String>()).replacen("|  |", "| |", 1)
    };
    let mut text = row(&HEAD.map(str::to_owned)) + "| --- |" + &" ---: |".repeat(chosen.len() - 1) + "\n";
    for line in lines(document) {
        text += &match line {
            Line::Cells(cells) => row(&cells[..]),
            Line::Reason { title, reason } => {
                format!("| {title} | {}{} |\n", one_line(&reason), " |".repeat(chosen.len() - 2))
            }
        };
    }
    text
}

/// The first line of a reason, with the characters escaped that would end a cell.
fn one_line(reason: &str) -> String {
    reason.lines().next().unwrap_or_default().replace('|', "\\|").replace('<', "&lt;")
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Way;
    use crate::bench::document::tests::sample;
    use crate::bench::machine::Machine;

    #[test]
    fn every_way_has_a_line_with_figures_or_a_reason() {
        let text = text(&sample());
        assert!(text.contains("\nkill, then start"), "{text}");
        let line = |title: &str| text.lines().find(|line| line.starts_with(title)).unwrap_or_default().to_owned();
        let words: Vec<String> = line("kill, then start").split_whitespace().map(str::to_owned).collect();
        assert_eq!(words[3..].join(" "), "10,000 70 7,000 0 0.2 ms 3.0 ms 4.0 ms 4.0 ms 150 0.040", "{text}");
        assert!(line("master-worker").contains("failed: in round 2"), "{text}");
        assert!(line("reloader, held by qdiscs (2)").contains("90 ms"), "{text}");
        assert!(line("(1) The generator fell behind").contains("300 ms late"), "{text}");
        assert!(
            line("Worst").contains("70 of 10,000 lost") && line("Best").contains("passed, none of 10,000"),
            "{text}"
        );
    }

    #[test]
    fn incomparable_figures_are_left_out_with_a_remark() {
        let sample = sample();
        let machine = Machine { day: "2026-11-24".into(), reloader: "fedcba".into(), ..Machine::sample() };
        let guest: Vec<Row> = sample.rows.iter().filter(|row| row.guest.is_some()).cloned().collect();
        let text = text(&sample.with(guest, &machine));
        let line = text.lines().find(|line| line.starts_with("reloader, held by qdiscs (2)")).unwrap();
        assert_eq!(line.matches('–').count(), 3, "{line}");
        let remark = text.lines().find(|line| line.starts_with("(2)")).unwrap();
        let expected =
            ["profile guest", "one for 3,333 connections", "apart from the others: 2026-11-24, reloader fedcba."];
        assert!(expected.iter().all(|text| remark.contains(text)), "{remark}");
    }

    #[test]
    fn every_markdown_line_has_all_columns() {
        let text = markdown(&sample(), &HEAD[1..]);
        assert!(text.lines().all(|line| line.matches('|').count() == HEAD.len() + 1), "{text}");
        assert!(text.contains("&lt;another>") && text.lines().count() == 2 + Way::ALL.len(), "{text}");
    }
}

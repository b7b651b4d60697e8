//! Writes the tables of figures.

use crate::page::{Element, element, thousands};
use crate::prove::attribution::losses_per_reload;
use crate::prove::findings::{Findings, TimedReload};
use crate::prove::loss::LossClass;
use crate::prove::reload_method::ReloadResult;
use crate::units::{format_duration, format_micros};

/// The number of connections by outcome.
pub(super) fn counts(findings: &Findings) -> Element {
    let tally = &findings.tally;
    let total = tally.tried();
    let share = |count: u64| match total {
        0 => "–".to_owned(),
        total if count == 0 || count == total => format!("{} %", 100 * count / total),
        total => format!("{:.3} %", 100.0 * count as f64 / total as f64),
    };
    let row = |name: &str, count: u64, class: &str| row_of(class, [name.to_owned(), thousands(count), share(count)]);
    let mut rows =
        vec![row("served", tally.total.ok, ""), row("lost", tally.lost(), if tally.lost() > 0 { "bad" } else { "" })];
    let classes = LossClass::ALL.iter().map(|class| (class.words(), tally.count(*class)));
    // The first three classes are the losses that a reload causes. They have a row even if their count is 0.
    let shown = classes.enumerate().filter(|(index, (_, count))| *index < 3 || *count > 0);
    rows.extend(shown.map(|(_, (name, count))| row(name, count, if count > 0 { "part bad" } else { "part" })));
    rows.push(row("served after over 900 ms", tally.total.slow, if tally.total.slow > 0 { "late" } else { "" }));
    let syns = match findings.sees_syns() {
        true => row("SYN sent again", tally.total.syn_resent, if tally.total.syn_resent > 0 { "late" } else { "" }),
        false => row_of("", ["SYN sent again".into(), "not seen".into(), "–".into()]),
    };
    rows.push(syns);
    if findings.settings.protocol.keep_alive.is_some() {
        rows.push(row_of("", ["connections made".into(), thousands(findings.connections), "–".into()]));
        rows.push(row_of("", ["closed between requests".into(), thousands(findings.closed_between), "–".into()]));
    }
    table(&[findings.settings.protocol.unit(), "count", "share"], rows)
}

/// The latencies of the connections that were served.
pub(super) fn percentiles(findings: &Findings) -> Element {
    let latency = &findings.tally.total.latency;
    let shares =
        [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %"), (0.99999, "99.999 %")];
    // A hundred connections have no 99.9th percentile.
    let known = shares.into_iter().filter(|(share, _)| latency.len() as f64 * (1.0 - share) >= 0.999);
    let mut rows: Vec<Element> = known
        .map(|(share, name)| row_of("", [name.to_owned(), format_micros(latency.value_at_quantile(share))]))
        .collect();
    if !latency.is_empty() {
        rows.push(row_of("", ["slowest".into(), format_micros(latency.max())]));
    }
    table(&["served within", "latency"], rows)
}

/// One row for each reload.
pub(super) fn reloads(findings: &Findings) -> Element {
    let losses = losses_per_reload(findings);
    let row = |(index, reload): (usize, &TimedReload)| {
        let cell = |text: String| element("td").text(text);
        let lost_cell = match losses.as_ref().map(|losses| losses[index]) {
            None => cell("–".into()),
            Some(0) => cell("0".into()),
            Some(lost) => cell(thousands(lost)).class("bad"),
        };
        let result = cell(reload.report.result.word().into());
        let result = if reload.report.result == ReloadResult::Failed { result.class("bad") } else { result };
        let row = element("tr").children([
            cell((index + 1).to_string()),
            cell(format_duration(reload.begin)),
            cell(format_duration(reload.took)),
            lost_cell,
            result,
        ]);
        row.children(reload.report.reason.iter().map(|reason| element("td").class("said").text(reason)))
    };
    let rows = findings.reloads.iter().enumerate().map(row).collect();
    let has_reasons = findings.reloads.iter().any(|reload| reload.report.reason.is_some());
    let head = ["reload", "at", "took", "lost", "result", "why"];
    table(&head[..if has_reasons { 6 } else { 5 }], rows)
}

fn table(head: &[&str], rows: Vec<Element>) -> Element {
    let head = element("tr").children(head.iter().map(|name| element("th").attr("scope", "col").text(name)));
    element("table").child(element("thead").child(head)).child(element("tbody").children(rows))
}

fn row_of<const N: usize>(class: &str, cells: [String; N]) -> Element {
    let row = element("tr").children(cells.into_iter().map(|cell| element("td").text(cell)));
    if class.is_empty() { row } else { row.class(class) }
}

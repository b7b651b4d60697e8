//! Builds the table rung x kind of listener x kernel from the output of the tests `ladder::*` in each row.

use std::collections::{BTreeMap, BTreeSet};

use super::table::Finding;

/// The prefix of a line with the result of a kind on a rung: `cell|held-ebpf|unix path|proven`.
const CELL: &str = "cell|";

/// A rung and a kind of listener.
type Place = (String, String);

/// The results by rung and kind, then by kernel.
#[derive(Default)]
pub(super) struct Ladder {
    /// In the order in which they were printed first.
    order: Vec<Place>,
    cells: BTreeMap<Place, BTreeMap<String, String>>,
    kernels: BTreeSet<String>,
    /// By the name that a row has on every kernel, the places for which any row of this name has a result.
    places_of: BTreeMap<String, BTreeSet<Place>>,
    /// Kernel and name of each row that was run.
    rows: BTreeSet<(String, String)>,
}

impl Ladder {
    /// The table of these rows, except for those whose kernel no longer exists.
    pub(super) fn from_findings(findings: &[Finding]) -> Ladder {
        let mut ladder = Ladder::default();
        for finding in findings.iter().filter(|finding| finding.retired.is_none()) {
            let (kernel, row) = finding.title.split_once(' ').unwrap_or((&finding.title, ""));
            ladder.rows.insert((kernel.to_owned(), row.to_owned()));
            for line in finding.passed_output.lines() {
                if let Some((_, cell)) = line.split_once(CELL) {
                    ladder.add(kernel, row, cell);
                }
            }
        }
        ladder
    }

    fn add(&mut self, kernel: &str, row: &str, cell: &str) {
        let mut words = cell.splitn(3, '|');
        let (Some(rung), Some(kind), Some(result)) = (words.next(), words.next(), words.next()) else { return };
        let place = (rung.to_owned(), kind.to_owned());
        if !self.cells.contains_key(&place) {
            self.order.push(place.clone());
        }
        self.kernels.insert(kernel.to_owned());
        self.places_of.entry(row.to_owned()).or_default().insert(place.clone());
        self.cells.entry(place).or_default().insert(kernel.to_owned(), result.trim().to_owned());
    }

    /// The first missing result: a row of the same name has it on another kernel.
    pub(super) fn gap(&self) -> Option<String> {
        self.rows.iter().find_map(|(kernel, row)| {
            let mut expected = self.places_of.get(row).into_iter().flatten();
            let place = expected.find(|place| !self.cells[*place].contains_key(kernel))?;
            Some(format!("the ladder has no result for {} on {}, {kernel}", place.1, place.0))
        })
    }

    /// Formats a line for each rung and kind, with a column for each kernel, and the reasons below.
    pub(super) fn text(&self) -> String {
        if self.order.is_empty() {
            return String::new();
        }
        let mut reasons: Vec<&str> = Vec::new();
        let mut text = format!("\n{:<12}{:<26}", "rung", "kind of listener");
        self.kernels.iter().for_each(|kernel| text += &format!("{kernel:<12}"));
        text.push('\n');
        for place in &self.order {
            text += &format!("{:<12}{:<26}", place.0, place.1);
            for kernel in &self.kernels {
                text += &format!(
                    "{:<12}",
                    word(self.cells[place].get(kernel).map_or("not applicable: -", String::as_str), &mut reasons)
                );
            }
            text = text.trim_end().to_owned() + "\n";
        }
        for (number, reason) in reasons.iter().enumerate() {
            text += &format!("({}) {reason}\n", number + 1);
        }
        text
    }
}

/// The text of a cell: `proven`, the rung that applies instead, or the number of the reason.
fn word<'a>(result: &'a str, reasons: &mut Vec<&'a str>) -> String {
    match result.strip_prefix("not applicable: ") {
        Some(instead) => instead.to_owned(),
        None if result == "proven" => result.to_owned(),
        None => {
            let known = reasons.iter().position(|reason| *reason == result);
            let number = known.unwrap_or_else(|| {
                reasons.push(result);
                reasons.len() - 1
            });
            format!("({})", number + 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(title: &str, output: &str) -> Finding {
        Finding { title: title.into(), passed_output: output.into(), ..Finding::default() }
    }

    #[test]
    fn missing_result_is_named() {
        let one = row(
            "5.10 ebpf",
            "test kept::passed ... cell|passed|unix path|proven\ncell|steered|unix path|not applicable: passed\n",
        );
        let two = row("6.1 ebpf", "cell|passed|unix path|so it is\n");
        // A row that does not run on every kernel leaves no gap on the others.
        let other = row("5.10 qdisc", "cell|held-qdisc|unix path|proven\n");
        assert_eq!(Ladder::from_findings(&[one.clone(), other]).gap(), None);
        let whole = Ladder::from_findings(std::slice::from_ref(&one));
        assert_eq!(whole.gap(), None);
        let retired = Finding { retired: Some("gone".into()), ..row("6.12 ebpf", "") };
        assert_eq!(Ladder::from_findings(&[one.clone(), retired]).gap(), None);
        let ladder = Ladder::from_findings(&[one, two]);
        assert_eq!(ladder.gap().unwrap(), "the ladder has no result for unix path on steered, 6.1");
        let text = ladder.text();
        assert!(text.contains("passed      unix path                 proven      (1)\n"), "{text}");
        assert!(text.ends_with("(1) so it is\n"), "{text}");
    }
}

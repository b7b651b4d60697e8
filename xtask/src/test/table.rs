//! Formats the results of the rows as a table.

use std::collections::BTreeSet;
use std::time::Duration;

use super::libtest::Outcome;
use super::report::Report;
use super::tiers::Tiers;

/// The results of one row.
#[derive(Default, Clone)]
pub(super) struct Finding {
    pub(super) title: String,
    pub(super) took: Duration,
    /// Each test by its name (`reload::binds_are_added_and_removed`), with its outcome and its cost on this machine.
    pub(super) results: Vec<(String, Outcome, Duration)>,
    /// Why the row as a whole has failed.
    pub(super) problem: Option<String>,
    /// Why this kernel is no longer available, if that is not a failure.
    pub(super) retired: Option<String>,
    /// The output of the passed tests.
    pub(super) passed_output: String,
    /// The output since the last test ended.
    pub(super) last_output: String,
}

impl Finding {
    /// Adds each test to the report, by its row and name.
    pub(super) fn into_report(self, report: &mut Report, tiers: &Tiers) {
        report.proofs.read(&self.passed_output);
        if let Some(why) = self.retired {
            report.add_skipped(format!("row {}", self.title), why);
        }
        for (name, outcome, took) in self.results {
            report.note_time(&name, took, tiers);
            report.add(format!("{} {name}", self.title), &outcome, took);
        }
        if let Some(problem) = self.problem {
            report.add_failure(format!("row {}: {problem}", self.title));
        }
    }

    fn count(&self, fits: impl Fn(&Outcome) -> bool) -> usize {
        self.results.iter().filter(|(_, outcome, _)| fits(outcome)).count()
    }

    /// The summary of the row in one line, followed by the output if the row failed.
    pub(super) fn line(&self) -> String {
        if let Some(why) = &self.retired {
            return format!("{}: not run, {why}", self.title);
        }
        let skipped = self.count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        let (passed, failed) = (self.count(|outcome| *outcome == Outcome::Passed), self.count(has_failed));
        let seconds = self.took.as_secs();
        let mut line = format!("{}: {passed} passed, {skipped} skipped, {failed} failed, {seconds} s", self.title);
        if let Some(problem) = &self.problem {
            line += &format!("\n{}\n{}: {problem}", self.last_output, self.title);
        }
        line
    }

    fn cell(&self, test: &str) -> &'static str {
        match self.results.iter().find(|(name, ..)| name == test) {
            Some((_, Outcome::Passed, _)) => "ok",
            Some((_, Outcome::Failed, _)) => "FAIL",
            Some((_, Outcome::Killed, _)) => "KILL",
            Some((_, Outcome::Skipped(_), _)) => "skip",
            None => "-",
        }
    }
}

fn has_failed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed | Outcome::Killed)
}

/// Formats a line for each test with a column for each row, and the reasons of skipped tests.
pub(super) fn text(findings: &[Finding]) -> String {
    let tests: BTreeSet<&str> =
        findings.iter().flat_map(|finding| &finding.results).map(|(name, ..)| name.as_str()).collect();
    let mut text = String::new();
    for (number, finding) in findings.iter().enumerate() {
        text += &format!("{}  {}\n", letter(number), finding.line().lines().next().unwrap_or_default());
    }
    let line =
        |cells: Vec<String>, end: &str| cells.iter().map(|cell| format!("{cell:<5}")).collect::<String>() + end + "\n";
    text += &line((0..findings.len()).map(letter).collect(), "test");
    for test in tests {
        text += &line(findings.iter().map(|finding| finding.cell(test).to_owned()).collect(), test);
    }
    for finding in findings {
        for (name, outcome, _) in &finding.results {
            if let Outcome::Skipped(reason) = outcome {
                text += &format!("{}: skipped {name}: {reason}\n", finding.title);
            }
        }
    }
    text
}

fn letter(number: usize) -> String {
    char::from_u32('A' as u32 + number as u32).unwrap_or('?').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_a_line_for_each_test_and_the_reasons_of_skipped_ones() {
        let result = |name: &str, outcome| (name.to_owned(), outcome, Duration::ZERO);
        let one = Finding {
            title: "5.10 ebpf".into(),
            results: vec![result("a::b", Outcome::Skipped("old".into()))],
            ..Finding::default()
        };
        let two =
            Finding { title: "6.1 ebpf".into(), results: vec![result("a::b", Outcome::Failed)], ..Finding::default() };
        let text = text(&[one, two]);
        assert!(text.contains("A  5.10 ebpf: 0 passed, 1 skipped, 0 failed"), "{text}");
        assert!(text.contains("\nskip FAIL a::b\n") && text.ends_with("5.10 ebpf: skipped a::b: old\n"), "{text}");
    }
}

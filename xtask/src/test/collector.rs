//! Collects the results of a row from the lines that its guest prints.

use std::slice::Iter;
use std::time::Duration;

use reloader_tests::guest;

use super::libtest::Outcome;
use super::progress::Progress;
use super::rows::Row;
use super::table::Finding;

/// The results of one row, filled while its guest runs.
pub(super) struct Collector<'a> {
    pub(super) row: &'a Row,
    pub(super) tests: &'a [String],
    /// The tests that have not ended.
    remaining: Iter<'a, String>,
    progress: &'a Progress,
    finding: Finding,
    /// The output since the last test ended.
    output: String,
    /// What the guest had cost when the last test ended, or when it had booted.
    cost_before: Duration,
}

impl<'a> Collector<'a> {
    pub(super) fn new(row: &'a Row, tests: &'a [String], progress: &'a Progress) -> Collector<'a> {
        let finding = Finding { title: row.title(), ..Finding::default() };
        let (output, cost_before) = (String::new(), Duration::ZERO);
        Collector { row, tests, remaining: tests.iter(), progress, finding, output, cost_before }
    }

    /// Adds a line of the guest, which had this cost by then. Gives the outcome of a test that ends with this line.
    pub(super) fn add_line(&mut self, line: &str, cost: Duration) -> Option<Outcome> {
        if self.output.is_empty() && self.finding.results.is_empty() {
            // The first line marks the end of the boot.
            self.cost_before = cost;
        }
        self.output += &format!("{line}\n");
        let status = guest::verdict(line)?;
        let test = self.remaining.next()?;
        let outcome = Outcome::from_program(Some(status), &self.output);
        if outcome == Outcome::Passed {
            self.finding.passed_output += &self.output;
        }
        let took = cost - self.cost_before;
        let title = format!("{test} on {}", self.row.title());
        self.progress.add(&title, &outcome, took.as_secs_f64(), &self.output);
        self.finding.results.push((test.clone(), outcome.clone(), took));
        self.output.clear();
        self.cost_before = cost;
        Some(outcome)
    }

    /// The test that runs at the moment; none at the end.
    pub(super) fn running(&self) -> Option<&'a str> {
        self.remaining.as_slice().first().map(String::as_str)
    }

    /// The finding, after the row was run or could not be run.
    pub(super) fn finish(self) -> Finding {
        Finding { last_output: self.output, ..self.finding }
    }
}

//! Builds the report at the end of a run: failures, skipped tests with their reasons, and where the time went.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::libtest::Outcome;
use super::proofs::Proofs;
use super::single::TestResult;
use super::tiers::Tiers;
use super::totals::Totals;
use crate::interrupt;

const SLOWEST: usize = 10;

/// The report, filled during the run.
pub(crate) struct Report {
    /// The name under which the totals are stored for the next run of this kind.
    kept_as: Option<String>,
    phases: Vec<(String, Duration)>,
    /// By name; the tests in guests have the title of their row in front.
    tests: Vec<(String, Duration)>,
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<(String, String)>,
    without_reason: BTreeSet<String>,
    pub(super) proofs: Proofs,
}

impl Report {
    /// An empty report. `kept_as` names the kind of run; a run without it is not compared with others.
    pub(crate) fn new(kept_as: Option<String>) -> Report {
        Report {
            kept_as,
            phases: Vec::new(),
            tests: Vec::new(),
            passed: 0,
            failed: Vec::new(),
            skipped: Vec::new(),
            without_reason: BTreeSet::new(),
            proofs: Proofs::default(),
        }
    }

    /// Runs a part of the run and notes its time. A failure fails the run, but does not prevent the other parts.
    ///
    /// # Errors
    /// If the run is interrupted.
    pub(crate) fn time(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let began = Instant::now();
        let result = work();
        self.add_phase(name, began.elapsed());
        self.add_result(name, result).map(drop)
    }

    /// Adds the time that a part of the run has taken.
    pub(crate) fn add_phase(&mut self, name: &str, took: Duration) {
        eprintln!("{name}: {}", in_words(took));
        self.phases.push((name.to_owned(), took));
    }

    pub(super) fn add_tests(&mut self, tests: Vec<TestResult>, tiers: &Tiers) {
        for ended in tests {
            self.note_time(&ended.test.name, ended.took, tiers);
            if ended.outcome == Outcome::Passed {
                self.proofs.read(&ended.output);
            }
            self.add(ended.test.name, &ended.outcome, ended.took);
        }
    }

    /// Notes a test that takes longer than expected without a reason in the tiers.
    pub(super) fn note_time(&mut self, test: &str, took: Duration, tiers: &Tiers) {
        if !tiers.is_expected_to_take(test, took) {
            self.without_reason.insert(test.to_owned());
        }
    }

    /// Adds the outcome of a test.
    pub(super) fn add(&mut self, name: String, outcome: &Outcome, took: Duration) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed | Outcome::Killed => self.failed.push(name.clone()),
            Outcome::Skipped(reason) => self.skipped.push((name.clone(), reason.clone())),
        }
        self.tests.push((name, took));
    }

    /// Adds the unit tests of a program, from the output of libtest.
    pub(super) fn add_unit(&mut self, name: &str, output: &str, has_passed: bool) {
        self.passed += passed_in(output);
        if !has_passed {
            self.failed.push(format!("unit tests: {name}"));
        }
    }

    /// Adds a failure that is not a test's, such as a row of the kernel matrix that could not be booted.
    pub(super) fn add_failure(&mut self, what: String) {
        self.failed.push(what);
    }

    /// Adds a failed part of the run as a failure, and gives its result otherwise.
    ///
    /// # Errors
    /// If the run was interrupted.
    pub(super) fn add_result<T>(&mut self, part: &str, result: Result<T>) -> Result<Option<T>> {
        interrupt::check()?;
        if let Err(error) = &result {
            eprintln!("{part}: {error:#}");
            self.add_failure(format!("{part}: {error:#}"));
        }
        Ok(result.ok())
    }

    /// Adds a part that was left out, and the reason.
    pub(super) fn add_skipped(&mut self, what: String, reason: String) {
        self.skipped.push((what, reason));
    }

    /// Prints the report, and stores the totals for the next run.
    ///
    /// # Errors
    /// If anything failed. The message names all failures.
    pub(crate) fn finish(mut self) -> Result<()> {
        let file = self.kept_as.as_deref().map(totals_file);
        let before = file.as_deref().and_then(Totals::read);
        println!("{}", self.text(before.as_ref()));
        // A failed run may have been short because it failed, so its totals are not stored.
        if let Some(file) = file.filter(|_| self.failed.is_empty()) {
            let totals = Totals { phases: self.phases.clone(), proofs: self.proofs.lines() };
            if let Err(error) = totals.write(&file) {
                eprintln!("the totals could not be stored in {}: {error:#}", file.display());
            }
        }
        ensure!(self.failed.is_empty(), "{} failed: {}", self.failed.len(), self.failed.join(", "));
        Ok(())
    }

    fn text(&mut self, before: Option<&Totals>) -> String {
        let mut text = String::from("\nphase                            seconds   before\n");
        for (name, took) in &self.phases {
            let before = before.and_then(|before| before.phase(name));
            text += &format!("{name:<30} {:>9} {:>8}\n", took.as_secs(), before.map_or("-".into(), |b| b.to_string()));
        }
        let total: Duration = self.phases.iter().map(|(_, took)| *took).sum();
        let before_total = before.map_or("-".into(), |before| before.total().to_string());
        text += &format!("{:<30} {:>9} {before_total:>8}\n", "total", total.as_secs());
        self.tests.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        text += "\nslowest tests (in an emulated guest: by the time of its emulator)\n";
        for (name, took) in self.tests.iter().take(SLOWEST) {
            text += &format!("{:>9.1} s  {name}\n", took.as_secs_f64());
        }
        if !self.without_reason.is_empty() {
            let names: Vec<&str> = self.without_reason.iter().map(String::as_str).collect();
            text += &format!("\nlonger than expected-s without a reason in tests/tiers.toml: {}\n", names.join(", "));
        }
        if !self.skipped.is_empty() {
            text += "\nskipped\n";
            self.skipped.iter().for_each(|(name, reason)| text += &format!("  {name}: {reason}\n"));
        }
        text += &self.proofs.text(before.map(|before| before.proofs.as_slice()));
        let (passed, skipped, failed) = (self.passed, self.skipped.len(), self.failed.len());
        text += &format!("\n{passed} passed, {skipped} skipped, {failed} failed");
        text
    }
}

/// The file of the totals. It is not in the target directory, so that a fresh clone can compare with the last run.
fn totals_file(name: &str) -> PathBuf {
    reloader_tests::versions::cache_dir().join("test-totals").join(format!("{name}.json"))
}

/// Sums the passed tests in lines such as `test result: ok. 12 passed; 0 failed; …`.
fn passed_in(output: &str) -> usize {
    let count = |line: &str| -> Option<usize> {
        line.split_once("test result: ")?.1.split_once(". ")?.1.split(' ').next()?.parse().ok()
    };
    output.lines().filter_map(count).sum()
}

fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted_over_all_programs() {
        let text = "test result: ok. 12 passed; 0 failed\nwords\ntest result: FAILED. 3 passed; 1 failed\n";
        assert_eq!(passed_in(text), 15);
    }

    #[test]
    fn run_succeeds_only_if_nothing_failed() {
        let finish = |outcome: Outcome| {
            let mut report = Report::new(None);
            report.add("a::b".into(), &Outcome::Passed, Duration::ZERO);
            report.add("a::c".into(), &outcome, Duration::ZERO);
            report.finish().map_err(|error| error.to_string())
        };
        assert_eq!((finish(Outcome::Passed), finish(Outcome::Skipped("no plug".into()))), (Ok(()), Ok(())));
        let error = Err("1 failed: a::c".to_owned());
        assert_eq!((finish(Outcome::Failed), finish(Outcome::Killed)), (error.clone(), error));
        let mut report = Report::new(None);
        assert_eq!(report.add_result("a part", Err::<(), _>(anyhow::anyhow!("gone"))).unwrap(), None);
        assert_eq!(report.finish().unwrap_err().to_string(), "1 failed: a part: gone");
    }

    #[test]
    fn text_lists_slow_and_skipped_tests_and_compares_the_phases() {
        let mut report = Report::new(None);
        report.phases.push(("build".into(), Duration::from_secs(70)));
        report.add("a::b".into(), &Outcome::Passed, Duration::from_millis(1500));
        report.add("a::c".into(), &Outcome::Skipped("no plug".into()), Duration::from_secs(2));
        report.add("a::d".into(), &Outcome::Killed, Duration::ZERO);
        let before = Totals { phases: vec![("build".into(), Duration::from_secs(90))], proofs: Vec::new() };
        let text = report.text(Some(&before));
        assert!(text.contains("build                                 70       90\n"), "{text}");
        assert!(text.contains("      2.0 s  a::c\n      1.5 s  a::b\n"), "{text}");
        assert!(text.contains("  a::c: no plug\n") && text.ends_with("\n1 passed, 1 skipped, 1 failed"), "{text}");
    }
}

//! Shows the progress of a run: a bar on a terminal, a line for each test elsewhere, and failures in both.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use super::libtest::Outcome;

/// The progress of all tests of a run, on this machine and in guests.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn new(tests: usize) -> Progress {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(tests as u64) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}").expect("a template");
        Progress { bar: bar.with_style(style) }
    }

    /// A test has ended.
    pub(super) fn add(&self, test: &str, outcome: &Outcome, seconds: f64, output: &str) {
        self.bar.inc(1);
        self.bar.set_message(test.to_owned());
        let (result, output) = match outcome {
            Outcome::Passed | Outcome::Skipped(_) if !self.bar.is_hidden() => return,
            Outcome::Passed => ("passed", ""),
            Outcome::Skipped(_) => ("skipped", ""),
            Outcome::Failed => ("FAILED", output),
            Outcome::Killed => ("KILLED at its limit", output),
        };
        self.print(format!("{result} {test} {seconds:.1} s\n{output}").trim_end());
    }

    /// Prints a line above the bar.
    pub(super) fn print(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

//! Tells how a run goes on: a bar on a terminal; elsewhere, and there too, what failed.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use super::libtest::Outcome;

/// Of all tests of a run, wherever they run.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn new(tests: usize) -> Progress {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(tests as u64) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}").expect("a template");
        Progress { bar: bar.with_style(style) }
    }

    /// A test has ended, after so many seconds of this machine's clock.
    pub(super) fn tell(&self, test: &str, outcome: &Outcome, seconds: f64, output: &str) {
        self.bar.inc(1);
        self.bar.set_message(test.to_owned());
        let what = match outcome {
            Outcome::Passed | Outcome::Skipped(_) => return,
            Outcome::Failed => "FAILED",
            Outcome::Killed => "KILLED at its limit:",
        };
        self.say(&format!("{what} {test} after {seconds:.1} s\n{output}"));
    }

    /// A line that stays.
    pub(super) fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

//! Reads the outcome of a test from the output of libtest, for a program that was asked to run one test.

use reloader_tests::guest::SKIPPED;
use reloader_tests::isolation::KILLED;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// The test reached its limit.
    Killed,
    /// The test was skipped, for this reason.
    Skipped(String),
}

impl Outcome {
    /// The outcome, from the program's exit status and output.
    pub(super) fn from_program(status: Option<i32>, output: &str) -> Outcome {
        // For an unknown name libtest runs nothing and succeeds.
        if status != Some(0) || !output.contains("test result: ok. 1 passed;") {
            return if status == Some(KILLED) { Outcome::Killed } else { Outcome::Failed };
        }
        let reason = output.lines().find_map(|line| without_name(line).strip_prefix(SKIPPED));
        reason.map_or(Outcome::Passed, |reason| Outcome::Skipped(reason.to_owned()))
    }
}

/// Removes what libtest has printed in front of the first output of a test: `test a::b ... skipped: why`.
fn without_name(line: &str) -> &str {
    let named = line.strip_prefix("test ").and_then(|line| line.split_once(" ... "));
    named.map_or(line, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_is_passed_only_if_one_test_was_run() {
        let outcome = Outcome::from_program;
        let ok = "test a ... ok\n\ntest result: ok. 1 passed; 0 failed";
        assert_eq!(outcome(Some(0), ok), Outcome::Passed);
        assert_eq!(outcome(Some(0), "test result: ok. 0 passed; 0 failed"), Outcome::Failed);
        assert_eq!((outcome(Some(101), ok), outcome(None, ok)), (Outcome::Failed, Outcome::Failed));
        assert_eq!(outcome(Some(124), ""), Outcome::Killed);
        assert_eq!(outcome(Some(0), &format!("test a ... skipped: no plug\n{ok}")), Outcome::Skipped("no plug".into()));
    }
}

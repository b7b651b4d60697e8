//! Reads what test programs print, one test at a time.

use reloader_tests::guest::SKIPPED;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// And why.
    Skipped(String),
}

/// Takes the lines of one test program after the other.
#[derive(Default)]
pub(super) struct Reader {
    /// The test that runs, and why it was skipped if it was.
    current: Option<(String, Option<String>)>,
    pub(super) results: Vec<(String, Outcome)>,
}

impl Reader {
    pub(super) fn line(&mut self, line: &str) {
        let mut rest = line;
        if let Some((name, said)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            self.end(Outcome::Failed);
            self.current = Some((name.to_owned(), None));
            rest = said;
        }
        if let Some((_, skipped)) = &mut self.current
            && let Some((_, reason)) = rest.split_once(SKIPPED)
        {
            *skipped = Some(reason.to_owned());
        }
        match rest {
            "ok" => self.end(Outcome::Passed),
            "FAILED" => self.end(Outcome::Failed),
            // `ignored`, `ignored, and why`: nobody asked for it.
            rest if rest.starts_with("ignored") => self.current = None,
            _ => {}
        }
    }

    /// The output is over: a test that has not ended by now has failed.
    pub(super) fn finish(&mut self) {
        self.end(Outcome::Failed);
    }

    fn end(&mut self, outcome: Outcome) {
        let Some((name, skipped)) = self.current.take() else { return };
        let outcome = match (outcome, skipped) {
            (Outcome::Passed, Some(reason)) => Outcome::Skipped(reason),
            (outcome, _) => outcome,
        };
        self.results.push((name, outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_has_the_outcome_that_its_own_line_tells() {
        let mut reader = Reader::default();
        let output = "running 6 tests\ntest a ... ok\ntest b ... skipped: no TCX\nok\ntest c ... some words\nFAILED\n\
                      test d ... ignored, a minute\ntest e ... skipped: x\nFAILED\n---- c stdout ----\ntest f ... killed";
        output.lines().for_each(|line| reader.line(line));
        reader.finish();
        let expected = [
            ("a", Outcome::Passed),
            ("b", Outcome::Skipped("no TCX".into())),
            ("c", Outcome::Failed),
            ("e", Outcome::Failed),
            ("f", Outcome::Failed),
        ];
        assert_eq!(reader.results, expected.map(|(name, outcome)| (name.to_owned(), outcome)));
    }
}

//! Reads `tests/tiers.toml`, which says which tests run when.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::programs::fits;

const FILE: &str = "tests/tiers.toml";

/// How much is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// While working.
    Quick,
    /// Before a change lands.
    Merge,
    /// For a release.
    All,
}

impl Tier {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Tier::Quick => "quick",
            Tier::Merge => "merge",
            Tier::All => reloader_tests::tier::ALL,
        }
    }
}

/// The content of the file.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Tiers {
    limit_s: u64,
    expected_s: u64,
    quick: Vec<String>,
    #[serde(default)]
    only_all: Vec<OnlyAll>,
    #[serde(default)]
    slow: Vec<Slow>,
}

/// What runs only with `--all`: tests on this machine, a row of the kernel matrix, or tests in a row.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct OnlyAll {
    #[serde(default)]
    tests: Vec<String>,
    row: Option<String>,
    reason: String,
}

/// A test that may take longer than others.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Slow {
    test: String,
    limit_s: u64,
    reason: String,
}

impl OnlyAll {
    fn names(&self, test: &str) -> bool {
        self.tests.iter().any(|name| fits(name, test))
    }
}

impl Tiers {
    pub(super) fn read() -> Result<Tiers> {
        let path = crate::repository().join(FILE);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Tiers::parse(&text).context(FILE)
    }

    fn parse(text: &str) -> Result<Tiers> {
        let tiers: Tiers = toml::from_str(text)?;
        let reasons = tiers.only_all.iter().map(|row| &row.reason).chain(tiers.slow.iter().map(|row| &row.reason));
        ensure!(reasons.clone().all(|reason| !reason.trim().is_empty()), "a row has an empty reason");
        for row in &tiers.only_all {
            ensure!(
                !row.tests.is_empty() || row.row.is_some(),
                "only-all names neither a test nor a row ({})",
                row.reason
            );
        }
        Ok(tiers)
    }

    /// Checks the file against the existing tests and rows.
    ///
    /// # Errors
    /// If the file names a test or a row that does not exist, or a test both in `quick` and in `only-all`.
    pub(super) fn check(&self, tests: &BTreeSet<String>, rows: &BTreeSet<String>) -> Result<()> {
        let named = self.quick.iter().chain(self.slow.iter().map(|row| &row.test));
        let named = named.chain(self.only_all.iter().flat_map(|row| &row.tests));
        let absent: Vec<&str> =
            named.filter(|name| !tests.iter().any(|test| fits(name, test))).map(String::as_str).collect();
        ensure!(absent.is_empty(), "{FILE} names tests that do not exist: {}", absent.join(", "));
        let contradicts = |test: &&String| self.includes(Tier::Quick, test) && !self.includes(Tier::Merge, test);
        if let Some(test) = tests.iter().find(contradicts) {
            bail!("{FILE} has {test} in `quick` and in `only-all`");
        }
        if let Some(row) = self.only_all.iter().filter_map(|row| row.row.as_ref()).find(|row| !rows.contains(*row)) {
            bail!("{FILE} names the row `{row}`, which does not exist");
        }
        Ok(())
    }

    /// Whether a test runs on this machine.
    pub(super) fn includes(&self, tier: Tier, test: &str) -> bool {
        let only_all = || self.only_all.iter().any(|only| only.row.is_none() && only.names(test));
        match tier {
            Tier::Quick => self.quick.iter().any(|name| fits(name, test)),
            Tier::Merge => !only_all(),
            Tier::All => true,
        }
    }

    /// Whether a row of the kernel matrix runs.
    pub(super) fn includes_row(&self, tier: Tier, title: &str) -> bool {
        let only_all = || self.only_all.iter().any(|only| only.tests.is_empty() && only.row.as_deref() == Some(title));
        tier == Tier::All || !only_all()
    }

    /// Whether a running row includes this test.
    pub(super) fn includes_in_row(&self, tier: Tier, title: &str, test: &str) -> bool {
        let only_all = || self.only_all.iter().any(|only| only.row.as_deref() == Some(title) && only.names(test));
        tier == Tier::All || !only_all()
    }

    /// The time after which a test is killed.
    pub(super) fn limit(&self, test: &str) -> Duration {
        let own = self.slow.iter().filter(|row| fits(&row.test, test)).map(|row| row.limit_s).max();
        Duration::from_secs(own.unwrap_or(self.limit_s))
    }

    /// Whether the time that a test took is expected.
    pub(super) fn is_expected_to_take(&self, test: &str, took: Duration) -> bool {
        took.as_secs() < self.expected_s || self.slow.iter().any(|row| fits(&row.test, test))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "limit-s = 100\nexpected-s = 60\nquick = [\"a::one\"]\n\
                        [[only-all]]\ntests = [\"b::*\"]\nreason = \"long\"\n\
                        [[only-all]]\nrow = \"6.1 qdisc\"\nreason = \"between two\"\n\
                        [[only-all]]\nrow = \"6.1 ebpf\"\ntests = [\"a::*\"]\nreason = \"the host has it\"\n\
                        [[slow]]\ntest = \"c::x\"\nlimit-s = 300\nreason = \"boots\"\n";

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn tiers_include_their_tests_and_rows() {
        let tiers = Tiers::parse(TEXT).unwrap();
        let included = |tier| ["a::one", "b::two", "c::x"].map(|test| tiers.includes(tier, test));
        assert_eq!(included(Tier::Quick), [true, false, false]);
        assert_eq!(included(Tier::Merge), [true, false, true]);
        assert_eq!(included(Tier::All), [true; 3]);
        assert!(!tiers.includes_row(Tier::Merge, "6.1 qdisc") && tiers.includes_row(Tier::All, "6.1 qdisc"));
        assert!(tiers.includes_row(Tier::Merge, "6.1 ebpf"));
        let in_row = |tier| ["a::one", "c::x"].map(|test| tiers.includes_in_row(tier, "6.1 ebpf", test));
        assert_eq!((in_row(Tier::Merge), in_row(Tier::All)), ([false, true], [true; 2]));
        assert!(tiers.includes_in_row(Tier::Merge, "6.12 ebpf", "a::one"));
        assert_eq!((tiers.limit("a::one").as_secs(), tiers.limit("c::x").as_secs()), (100, 300));
        assert!(tiers.is_expected_to_take("c::x", Duration::from_secs(90)));
        assert!(!tiers.is_expected_to_take("a::one", Duration::from_secs(60)));
    }

    #[test]
    fn unknown_tests_and_rows_are_named() {
        let tiers = Tiers::parse(TEXT).unwrap();
        let rows = names(&["6.1 qdisc", "6.1 ebpf"]);
        assert!(tiers.check(&names(&["a::one", "b::two", "c::x"]), &rows).is_ok());
        let error = tiers.check(&names(&["b::two", "a::two", "c::x"]), &rows).unwrap_err();
        assert_eq!(error.to_string(), "tests/tiers.toml names tests that do not exist: a::one");
        let error = tiers.check(&names(&["a::one", "b::two", "c::x"]), &names(&[])).unwrap_err();
        assert_eq!(error.to_string(), "tests/tiers.toml names the row `6.1 qdisc`, which does not exist");
    }

    #[test]
    fn quick_tests_must_run_before_a_change_lands_too() {
        let tiers = Tiers::parse(&TEXT.replace("quick = [\"a::one\"]", "quick = [\"b::*\"]")).unwrap();
        let rows = names(&["6.1 qdisc", "6.1 ebpf"]);
        let error = tiers.check(&names(&["a::one", "b::two", "c::x"]), &rows).unwrap_err();
        assert_eq!(error.to_string(), "tests/tiers.toml has b::two in `quick` and in `only-all`");
    }

    #[test]
    fn entry_without_a_reason_or_a_subject_is_refused() {
        for row in ["tests = [\"a\"]\nreason = \" \"", "reason = \"c\"", "tests = [\"a\"]"] {
            let text = format!("limit-s = 1\nexpected-s = 1\nquick = []\n[[only-all]]\n{row}\n");
            assert!(Tiers::parse(&text).is_err(), "{row}");
        }
    }
}

//! Builds the test programs and lists the tests in them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use reloader_tests::cargo::cargo;

use crate::profile;

/// The name of the program of the integration tests.
const INTEGRATION: &str = "main";

/// The programs that cargo has built.
pub(super) struct Programs {
    /// The programs of the unit tests, by the name of what they test: `reloader (lib)`.
    pub(super) unit: BTreeMap<String, UnitTests>,
    /// The program of the integration tests.
    pub(super) integration: PathBuf,
    /// The directory of the product and the tests' helpers.
    pub(super) folder: PathBuf,
}

/// The unit tests of a library or a program.
pub(super) struct UnitTests {
    pub(super) program: PathBuf,
    /// The package's directory, in which cargo runs its tests.
    pub(super) folder: PathBuf,
}

/// An integration test and its lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) name: String,
    /// Whether it needs the machine to itself.
    pub(super) is_alone: bool,
}

impl Programs {
    /// Builds all programs, for this machine.
    pub(super) fn build() -> Result<Programs> {
        let mut cargo = cargo();
        cargo.args(["build", "--locked", "--workspace", "--lib", "--bins", "--tests"]);
        Programs::from_cargo(&mut cargo)
    }

    /// Builds only the programs of the unit tests.
    pub(super) fn build_unit() -> Result<BTreeMap<String, UnitTests>> {
        let mut cargo = cargo();
        cargo.args(["test", "--locked", "--workspace", "--exclude", "reloader-tests", "--lib", "--bins", "--no-run"]);
        let messages = messages(&mut cargo)?;
        Ok(messages.iter().filter(|message| is_test(message)).filter_map(unit).collect())
    }

    /// Builds the integration tests and the programs that they run, static, with this profile.
    pub(super) fn build_static(profile: &str) -> Result<Programs> {
        let mut cargo = profile::static_cargo("build", profile);
        cargo.args(["--package", "reloader", "--package", "reloader-tests", "--bins", "--test", INTEGRATION]);
        Programs::from_cargo(&mut cargo)
    }

    fn from_cargo(cargo: &mut Command) -> Result<Programs> {
        let messages = messages(cargo)?;
        let is_integration = |message: &&serde_json::Value| is_test(message) && message["target"]["kind"][0] == "test";
        let integration = messages.iter().find(is_integration).and_then(executable);
        let is_product = |message: &&serde_json::Value| !is_test(message) && message["target"]["name"] == "reloader";
        let product =
            messages.iter().filter(is_product).find_map(executable).context("cargo did not build reloader")?;
        Ok(Programs {
            unit: messages.iter().filter(|message| is_test(message)).filter_map(unit).collect(),
            integration: integration.context("cargo did not build the integration tests")?,
            folder: product.parent().context("a program has a folder")?.to_owned(),
        })
    }

    /// The path of the product, or of a helper.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// All integration tests, in the order of their names.
    pub(super) fn tests(&self) -> Result<Vec<Test>> {
        list(&self.integration)
    }
}

/// Whether a test fits a pattern: `a::b` is one test, `a::*` all tests whose names begin so.
pub(super) fn fits(name: &str, test: &str) -> bool {
    name.strip_suffix('*').map_or(name == test, |beginning| test.starts_with(beginning))
}

/// The tests of a program. libtest's attribute `ignore` states the lane: `#[ignore = "alone: …"]` says that a test needs the machine to
/// itself. A plain `cargo test`, which runs everything at once, leaves such tests out.
pub(super) fn list(program: &Path) -> Result<Vec<Test>> {
    let names = |arguments: &[&str]| -> Result<BTreeSet<String>> {
        let output = Command::new(program).args(["--list", "--format", "terse"]).args(arguments).output();
        let output = output.with_context(|| program.display().to_string())?;
        ensure!(output.status.success(), "{} --list: {}", program.display(), output.status);
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    };
    let alone = names(&["--ignored"])?;
    let test = |name: String| Test { is_alone: alone.contains(&name), name };
    Ok(names(&[])?.into_iter().map(test).collect())
}

fn messages(cargo: &mut Command) -> Result<Vec<serde_json::Value>> {
    let output = cargo
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo")?;
    ensure!(output.status.success(), "building the tests failed: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

fn is_test(message: &serde_json::Value) -> bool {
    message["profile"]["test"] == true
}

fn executable(message: &serde_json::Value) -> Option<PathBuf> {
    message["executable"].as_str().map(PathBuf::from)
}

fn unit(message: &serde_json::Value) -> Option<(String, UnitTests)> {
    let target = &message["target"];
    let kind = target["kind"][0].as_str()?;
    let name = target["name"].as_str()?;
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    (kind != "test").then_some((format!("{name} ({kind})"), UnitTests { program: executable(message)?, folder }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() { files(&entry.path(), found) } else { found.push(entry.path()) }
        }
    }

    /// The lane `alone` would run a test that is ignored for any other reason.
    #[test]
    fn integration_tests_are_ignored_only_to_state_their_lane() {
        let mut found = Vec::new();
        files(&crate::repository().join("tests/tests"), &mut found);
        let mut alone = 0;
        for path in found {
            let text = std::fs::read(&path).unwrap();
            for line in String::from_utf8_lossy(&text).lines().filter(|line| line.trim().starts_with("#[ignore")) {
                assert!(line.trim().starts_with("#[ignore = \"alone: "), "{}: {line}", path.display());
                alone += 1;
            }
        }
        assert!(alone > 50, "{alone} tests state a lane");
    }
}

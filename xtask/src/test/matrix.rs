//! Runs integration tests in guests: kernel x gate x result.

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reloader_tests::versions::cache_dir;
use reloader_tests::{booted, guest, kernels};

use super::ladder::Ladder;
use super::libtest::Reader;
use super::rows::{self, BOOTS_SYSVINIT, Built, Chosen, Denied, Row};
use super::table::{self, Finding};
use crate::packages::ensure_apt;
use crate::vm::{Host, Load};

/// For one row, many times what it takes.
const LIMIT: Duration = Duration::from_secs(1800);

/// Guests have one processor each.
const AT_ONCE: usize = 2;

/// All rows, or those of one kernel.
pub(super) fn run(line: Option<&str>, name: Option<&str>) -> Result<()> {
    let host = Host::prepare()?;
    let wanted = |row: &Row| line.is_none_or(|line| line == row.kernel) && name.is_none_or(|name| name == row.name);
    let rows: VecDeque<Row> = rows::all().into_iter().filter(wanted).collect();
    ensure!(!rows.is_empty(), "there is no row {} {}", line.unwrap_or("of any kernel"), name.unwrap_or_default());
    let built = integration_tests(&rows::needed(&rows))?;
    let began = Instant::now();
    let (queue, findings) = (Mutex::new(rows), Mutex::new(Vec::new()));
    let next = || queue.lock().expect("no row panics").pop_front();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(row) = next() {
                    let finding = find(&host, &row, &built);
                    eprintln!("{}", finding.line());
                    findings.lock().expect("no row panics").push(finding);
                }
            });
        }
    });
    let findings = findings.into_inner().context("no row panics")?;
    print!("{}", table::text(&findings));
    let ladder = Ladder::of(&findings);
    println!("{}", ladder.text());
    println!(
        "{} rows in {} s; their output is in {}",
        findings.len(),
        began.elapsed().as_secs(),
        host.logs().display()
    );
    let failed: Vec<_> =
        findings.iter().filter(|finding| finding.has_failed()).map(|finding| finding.title.as_str()).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    // One kernel alone may have been asked for, never one rung.
    ladder.gap().map_or(Ok(()), |gap| Err(anyhow::anyhow!(gap)))?;
    Ok(())
}

fn find(host: &Host, row: &Row, built: &[Built]) -> Finding {
    let began = Instant::now();
    let mut finding = Finding { title: row.title(), ..Finding::default() };
    let result = kernels::wanted(row.kernel).and_then(|wanted| match wanted.fetch(&cache_dir()) {
        Err(error) if wanted.retired => {
            finding.retired = Some(format!("{error:#}"));
            Ok(())
        }
        kernel => in_guest(host, row, &kernel?, built, &mut finding),
    });
    finding.problem = result.err().map(|error| format!("{error:#}"));
    finding.took = began.elapsed();
    finding
}

fn in_guest(host: &Host, row: &Row, kernel: &kernels::Kernel, built: &[Built], finding: &mut Finding) -> Result<()> {
    let tests = row.chosen(built)?;
    let name = row.title().replace(' ', "-");
    let load = load(host, row, &tests)?;
    let (mut output, mut reader, mut running) = (String::new(), Reader::default(), tests.iter());
    // Written as it comes: a row that takes long can be watched.
    let mut log = fs::File::create(host.logs().join(format!("{name}.log")))?;
    let mut current = running.next();
    let verdicts = host.boot(&name, kernel, &load, LIMIT, |line| {
        output += &format!("{line}\n");
        let _ = writeln!(log, "{line}");
        reader.line(line);
        if guest::verdict(line).is_some() {
            finding.add(current.map_or("", |test| test.built.name.as_str()), &mut reader);
            current = running.next();
        }
    });
    finding.add(current.map_or("", |test| test.built.name.as_str()), &mut reader);
    finding.output = output;
    let verdicts = verdicts?;
    let bad: Vec<_> = tests
        .iter()
        .zip(&verdicts)
        .filter(|(_, status)| **status != 0)
        .map(|(test, _)| test.built.name.as_str())
        .collect();
    ensure!(bad.is_empty(), "ended badly: {}", bad.join(", "));
    ensure!(verdicts.len() == tests.len(), "only {} of {} test programs ran", verdicts.len(), tests.len());
    for test in tests.iter().map(|test| &test.built.name) {
        let any = finding.results.iter().any(|(name, _)| name.starts_with(&format!("{test}::")));
        ensure!(any, "{test} ran no test");
    }
    Ok(())
}

fn load(host: &Host, row: &Row, tests: &[Chosen]) -> Result<Load> {
    let mut environment = row.environment();
    let mut files = vec![host.program("reloader"), host.program("denied")];
    let mut before = Vec::new();
    match row.denied {
        Denied::Nothing => {}
        Denied::Syscalls(names) => before = ["denied", "--syscalls", names, "--"].map(str::to_owned).to_vec(),
        Denied::Capabilities(names) => {
            files.push(wrapper(host.logs(), names)?);
            environment.push(("RELOADER_BIN".into(), "/programs/reloader-denied".into()));
        }
    }
    files.extend(tests.iter().map(|test| test.built.path.clone()));
    let command = |test: &Chosen| {
        let name = test.built.path.file_name().unwrap_or_default().to_string_lossy();
        let words = before.iter().cloned().chain([format!("/programs/{name}"), "--test-threads=1".into()]);
        words.chain(test.arguments.iter().cloned()).collect()
    };
    let mut trees = Vec::new();
    if tests.iter().any(|test| test.built.name == BOOTS_SYSVINIT) {
        ensure_apt(&["debootstrap"])?;
        trees.push((booted::fetch_sysvinit(&cache_dir())?, booted::IN_GUEST.into()));
    }
    Ok(Load { commands: tests.iter().map(command).collect(), files, trees, environment })
}

/// A reloader without these capabilities, for tests that need them themselves.
fn wrapper(folder: &Path, names: &str) -> Result<PathBuf> {
    let path = folder.join("reloader-denied");
    fs::write(
        &path,
        format!("#!/bin/sh\nexec /programs/denied --capabilities {names} -- /programs/reloader \"$@\"\n"),
    )?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Name and program of each, as cargo has built it.
fn integration_tests(needed: &[String]) -> Result<Vec<Built>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--locked", "--package", "reloader-tests", "--no-run", "--message-format=json"]);
    cargo.args(needed.iter().flat_map(|name| ["--test", name]));
    let output =
        cargo.args(crate::vm::PROFILE).stderr(std::process::Stdio::inherit()).output().context("running cargo")?;
    ensure!(output.status.success(), "building the integration tests: {}", output.status);
    let messages = String::from_utf8(output.stdout)?;
    let found = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_test = message["target"]["kind"][0] == "test";
        let path = message["executable"].as_str().filter(|_| is_test)?;
        Some(Built { name: message["target"]["name"].as_str()?.to_owned(), path: PathBuf::from(path) })
    });
    Ok(found.collect())
}

//! Runs integration tests in guests: kernel x gate x result.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reloader_tests::guest;
use reloader_tests::kernels;
use reloader_tests::versions::cache_dir;

use super::libtest::Reader;
use super::rows::{self, Denied, Row};
use super::table::{self, Finding};
use crate::vm::{Host, Load};

/// For one row, many times what it takes.
const LIMIT: Duration = Duration::from_secs(600);

/// Guests have one processor each.
const AT_ONCE: usize = 2;

/// All rows, or those of one kernel.
pub(super) fn run(line: Option<&str>) -> Result<()> {
    let host = Host::prepare()?;
    let built = integration_tests()?;
    let rows: VecDeque<Row> =
        rows::all().into_iter().filter(|row| line.is_none_or(|line| line == row.kernel)).collect();
    ensure!(!rows.is_empty(), "no row is about the kernel {}", line.unwrap_or_default());
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
    println!(
        "{} rows in {} s; their output is in {}",
        findings.len(),
        began.elapsed().as_secs(),
        host.logs().display()
    );
    let failed: Vec<_> =
        findings.iter().filter(|finding| finding.has_failed()).map(|finding| finding.title.as_str()).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn find(host: &Host, row: &Row, built: &[(String, PathBuf)]) -> Finding {
    let began = Instant::now();
    let mut finding = Finding { title: row.title(), ..Finding::default() };
    match kernels::wanted(row.kernel).and_then(|wanted| Ok((wanted, wanted.fetch(&cache_dir())?))) {
        Ok((_, kernel)) => {
            finding.title = format!("{} {}", row.kernel, row.name);
            if let Err(error) = in_guest(host, row, &kernel, built, &mut finding) {
                finding.problem = Some(format!("{error:#}"));
            }
        }
        Err(error) if kernels::wanted(row.kernel).is_ok_and(|wanted| wanted.retired) => {
            finding.retired = Some(format!("{error:#}"))
        }
        Err(error) => finding.problem = Some(format!("{error:#}")),
    }
    finding.took = began.elapsed();
    finding
}

fn in_guest(
    host: &Host,
    row: &Row,
    kernel: &kernels::Kernel,
    built: &[(String, PathBuf)],
    finding: &mut Finding,
) -> Result<()> {
    let tests = row.chosen(built)?;
    let name = row.title().replace(' ', "-");
    let load = load(host, row, &tests)?;
    let (mut output, mut reader, mut running) = (String::new(), Reader::default(), tests.iter());
    let mut current = running.next();
    let verdicts = host.boot(&name, kernel, &load, LIMIT, |line| {
        output += &format!("{line}\n");
        reader.line(line);
        if guest::verdict(line).is_some() {
            finding.add(current.map_or("", |(name, _)| name), &mut reader);
            current = running.next();
        }
    });
    finding.add(current.map_or("", |(name, _)| name), &mut reader);
    fs::write(host.logs().join(format!("{name}.log")), &output)?;
    finding.output = output;
    let verdicts = verdicts?;
    let bad: Vec<_> =
        tests.iter().zip(&verdicts).filter(|(_, status)| **status != 0).map(|((name, _), _)| name.as_str()).collect();
    ensure!(bad.is_empty(), "ended badly: {}", bad.join(", "));
    ensure!(verdicts.len() == tests.len(), "only {} of {} test programs ran", verdicts.len(), tests.len());
    for (test, _) in &tests {
        let any = finding.results.iter().any(|(name, _)| name.starts_with(&format!("{test}::")));
        ensure!(any, "{test} ran no test");
    }
    Ok(())
}

fn load(host: &Host, row: &Row, tests: &[&(String, PathBuf)]) -> Result<Load> {
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
    files.extend(tests.iter().map(|(_, path)| path.clone()));
    let command = |path: &Path| {
        let inside = format!("/programs/{}", path.file_name().unwrap_or_default().to_string_lossy());
        before.iter().cloned().chain([inside, "--test-threads=1".into()]).collect()
    };
    Ok(Load { commands: tests.iter().map(|(_, path)| command(path)).collect(), files, environment })
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
fn integration_tests() -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--locked", "--package", "reloader-tests", "--no-run", "--message-format=json"]);
    let output =
        cargo.args(crate::vm::PROFILE).stderr(std::process::Stdio::inherit()).output().context("running cargo")?;
    ensure!(output.status.success(), "building the integration tests: {}", output.status);
    let messages = String::from_utf8(output.stdout)?;
    let found = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_test = message["target"]["kind"][0] == "test";
        let path = message["executable"].as_str().filter(|_| is_test)?;
        Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(path)))
    });
    Ok(found.collect())
}

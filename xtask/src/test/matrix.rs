//! Runs integration tests in guests: kernel x gate x result.

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reloader_tests::versions::cache_dir;
use reloader_tests::{booted, guest, kernels, tier};

use super::ladder::Ladder;
use super::libtest::Outcome;
use super::machine_lock::MachineLock;
use super::programs::{Programs, Test};
use super::report::Report;
use super::rows::{self, BOOTS_SYSVINIT, Denied, Row};
use super::table::{self, Finding};
use super::tiers::{Tier, Tiers};
use crate::dist;
use crate::interrupt;
use crate::packages::ensure_apt;
use crate::vm::carried::Carried;
use crate::vm::{self, Accelerator, Host};

/// For one row, many times what it takes.
const LIMIT: Duration = Duration::from_secs(1800);

/// Guests have one processor each.
const AT_ONCE: usize = 2;

/// What is run.
pub(super) struct Matrix<'a> {
    pub(super) tier: Tier,
    pub(super) tiers: &'a Tiers,
    /// Only rows of this kernel.
    pub(super) kernel: Option<&'a str>,
    /// Only rows of this name.
    pub(super) name: Option<&'a str>,
    /// Only tests whose names have this in them.
    pub(super) filter: Option<&'a str>,
}

/// The titles of all rows.
pub(super) fn titles() -> Vec<String> {
    rows::all().iter().map(Row::title).collect()
}

impl Matrix<'_> {
    /// Runs the rows, prints their tables, and puts what came of them into the report.
    pub(super) fn run(&self, report: &mut Report) -> Result<()> {
        let began = Instant::now();
        let programs = {
            let _machine = MachineLock::shared()?;
            Programs::build_static(vm::PROFILE)?
        };
        dist::verify(&programs.program("reloader"))?;
        let host = Host::with_programs(programs.folder.clone())?;
        if let Accelerator::Emulated(why) = host.accelerator() {
            eprintln!("guests are emulated: {why}");
        }
        report.add_phase("build for guests", began.elapsed());
        let tests = programs.tests()?;
        let (rows, left_out): (Vec<Row>, Vec<Row>) = rows::all()
            .into_iter()
            .filter(|row| self.is_wanted(row))
            .partition(|row| self.kernel.is_some() || self.tiers.includes_row(self.tier, &row.title()));
        for row in left_out {
            report.add_skipped(format!("row {}", row.title()), "only in a run of everything (tests/tiers.toml)".into());
        }
        ensure!(!rows.is_empty(), "there is no such row; the rows are {}", titles().join(", "));
        let mut with_tests = Vec::new();
        for row in rows {
            if !self.tests_of(&row, &tests)?.is_empty() {
                with_tests.push(row);
            }
        }
        if with_tests.is_empty() {
            report.add_skipped("guests".into(), "no row has a test of this name".into());
            return Ok(());
        }
        let began = Instant::now();
        let findings = {
            let _machine = MachineLock::shared()?;
            self.findings(with_tests, &Parts { host, programs, tests })?
        };
        report.add_phase("tests in guests", began.elapsed());
        print!("{}", table::text(&findings));
        let ladder = Ladder::of(&findings);
        println!("{}", ladder.text());
        // One kernel alone may have been asked for, never one rung.
        if let Some(gap) = ladder.gap() {
            report.add_failure(gap);
        }
        findings.into_iter().for_each(|finding| finding.into_report(report, self.tiers));
        Ok(())
    }

    fn is_wanted(&self, row: &Row) -> bool {
        self.kernel.is_none_or(|kernel| kernel == row.kernel) && self.name.is_none_or(|name| name == row.name)
    }

    fn findings(&self, rows: Vec<Row>, parts: &Parts) -> Result<Vec<Finding>> {
        let (queue, findings) = (Mutex::new(VecDeque::from(rows)), Mutex::new(Vec::new()));
        let next = || queue.lock().expect("no row panics").pop_front();
        std::thread::scope(|scope| {
            // By this machine's clock, two guests would measure each other.
            let at_once = if *parts.host.accelerator() == Accelerator::Kvm { 1 } else { AT_ONCE };
            for _ in 0..at_once {
                scope.spawn(|| {
                    while let Some(row) = next().filter(|_| !interrupt::is_requested()) {
                        let finding = self.find(&row, parts);
                        eprintln!("{}", finding.line());
                        findings.lock().expect("no row panics").push(finding);
                    }
                });
            }
        });
        interrupt::check()?;
        findings.into_inner().context("no row panics")
    }

    fn find(&self, row: &Row, parts: &Parts) -> Finding {
        let began = Instant::now();
        let mut finding = Finding { title: row.title(), ..Finding::default() };
        let result = kernels::wanted(row.kernel).and_then(|wanted| match wanted.fetch(&cache_dir()) {
            Err(error) if wanted.retired => {
                finding.retired = Some(format!("{error:#}"));
                Ok(())
            }
            kernel => self.in_guest(row, &kernel?, parts, &mut finding),
        });
        finding.problem = result.err().map(|error| format!("{error:#}"));
        finding.took = began.elapsed();
        finding
    }

    fn in_guest(&self, row: &Row, kernel: &kernels::Kernel, parts: &Parts, finding: &mut Finding) -> Result<()> {
        let tests = self.tests_of(row, &parts.tests)?;
        let name = row.title().replace(' ', "-");
        let carried = Carried::for_guest(kernel, parts.host.accelerator(), &row.environment())?;
        let load = self.load(row, parts, &tests, carried.known().filter(|_| self.tier != Tier::All))?;
        // Written as it comes: a row that takes long can be watched.
        let mut log = fs::File::create(parts.host.logs().join(format!("{name}.log")))?;
        let (mut output, mut began, mut running) = (String::new(), Instant::now(), tests.iter());
        let verdicts = parts.host.boot(&name, kernel, &load, LIMIT, |line| {
            output += &format!("{line}\n");
            let _ = writeln!(log, "{line}");
            carried.learn(line);
            let Some(status) = guest::verdict(line) else { return };
            if let Some(test) = running.next() {
                let outcome = Outcome::from_program(Some(status), &output);
                finding.output += &output;
                if matches!(outcome, Outcome::Failed | Outcome::Killed) {
                    eprintln!("FAILED {test} on {}\n{output}", row.title());
                }
                finding.results.push((test.clone(), outcome, began.elapsed()));
                output.clear();
                began = Instant::now();
            }
        });
        finding.output += &output;
        let count =
            verdicts.with_context(|| format!("during {}", running.next().map_or("the end", String::as_str)))?.len();
        ensure!(count == tests.len(), "only {count} of {} tests ran", tests.len());
        Ok(())
    }

    /// Those that a row runs.
    fn tests_of(&self, row: &Row, tests: &[Test]) -> Result<Vec<String>> {
        let mut chosen = row.chosen(tests)?;
        chosen.retain(|test| self.filter.is_none_or(|filter| test.contains(filter)));
        Ok(chosen)
    }

    fn load(&self, row: &Row, parts: &Parts, tests: &[String], carried: Option<u32>) -> Result<vm::Load> {
        let mut environment = row.environment();
        environment.push((tier::VARIABLE.into(), self.tier.word().into()));
        environment.extend(carried.map(|rate| (guest::CARRIED.into(), rate.to_string())));
        let integration = &parts.programs.integration;
        let mut files = vec![parts.programs.program("reloader"), parts.programs.program("denied"), integration.clone()];
        let mut before = Vec::new();
        match row.denied {
            Denied::Nothing => {}
            Denied::Syscalls(names) => before = ["denied", "--syscalls", names, "--"].map(str::to_owned).to_vec(),
            Denied::Capabilities(names) => {
                files.push(wrapper(parts.host.logs(), names)?);
                environment.push(("RELOADER_BIN".into(), "/programs/reloader-denied".into()));
            }
        }
        let program = format!("/programs/{}", integration.file_name().unwrap_or_default().to_string_lossy());
        let command = |test: &String| vm::Words {
            words: before
                .iter()
                .cloned()
                .chain([program.clone(), "--exact".into(), test.clone()])
                .chain(["--include-ignored", "--nocapture"].map(str::to_owned))
                .collect(),
            limit: self.tiers.limit(test),
        };
        let mut trees = Vec::new();
        if tests.iter().any(|test| test.starts_with(BOOTS_SYSVINIT)) {
            ensure_apt(&["debootstrap"])?;
            trees.push((booted::fetch_sysvinit(&cache_dir())?, booted::IN_GUEST.into()));
        }
        Ok(vm::Load { commands: tests.iter().map(command).collect(), files, trees, environment })
    }
}

/// What all rows share.
struct Parts {
    host: Host,
    programs: Programs,
    tests: Vec<Test>,
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

//! Runs rows of the kernel matrix, each in a guest of its own.

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

use super::collector::Collector;
use super::libtest::Outcome;
use super::machine_lock::MachineLock;
use super::programs::Programs;
use super::progress::Progress;
use super::rows::{BOOTS_SYSVINIT, Denied, Row};
use super::table::Finding;
use super::tiers::{Tier, Tiers};
use crate::interrupt;
use crate::packages::ensure_apt;
use crate::vm::carried::CarriedRate;
use crate::vm::{self, Accelerator, GuestSpec, Host};

/// The limit for one row: many times what it takes.
const LIMIT: Duration = Duration::from_secs(3600);

/// How many guests run at once. Each has one processor, and waits half of the time while the lanes run.
const AT_ONCE: usize = 3;

/// The rows to run, built and chosen but not booted.
pub(super) struct Guests<'a> {
    pub(super) tier: Tier,
    pub(super) tiers: &'a Tiers,
    pub(super) host: Host,
    pub(super) programs: Programs,
    /// Each row with its tests.
    pub(super) rows: Vec<(Row, Vec<String>)>,
}

impl Guests<'_> {
    /// How many tests run in guests.
    pub(super) fn count(&self) -> usize {
        self.rows.iter().map(|(_, tests)| tests.len()).sum()
    }

    /// Whether the guests may run beside tests that need the machine to themselves.
    pub(super) fn are_idle(&self) -> bool {
        self.host.is_idle()
    }

    /// Fetches the kernels and packs the archives that several guests share. This uses all processors and would disturb tests later. An error
    /// is ignored here, because it occurs again in its row.
    pub(super) fn warm_up(&self) {
        for (row, tests) in &self.rows {
            let packed = kernels::by_line(row.kernel).and_then(|wanted| {
                let kernel = wanted.fetch(&cache_dir())?;
                self.host.pack(&kernel, &self.load(row, tests, None)?, &mut std::io::sink())
            });
            drop(packed);
        }
    }

    /// Runs all rows.
    ///
    /// # Errors
    /// If the run is interrupted.
    pub(super) fn run(&self, progress: &Progress) -> Result<Vec<Finding>> {
        let _machine = if self.are_idle() { None } else { Some(MachineLock::shared()?) };
        let (began, queue, findings) =
            (Instant::now(), Mutex::new(VecDeque::from_iter(&self.rows)), Mutex::new(Vec::new()));
        let next = || queue.lock().expect("no row panics").pop_front();
        std::thread::scope(|scope| {
            // On this machine's clock, two guests would disturb each other's measurements.
            let at_once = if *self.host.accelerator() == Accelerator::Kvm { 1 } else { AT_ONCE };
            for _ in 0..at_once {
                scope.spawn(|| {
                    while let Some((row, tests)) = next().filter(|_| !interrupt::is_requested()) {
                        let finding = self.run_row(row, tests, progress);
                        progress.print(&finding.line());
                        findings.lock().expect("no row panics").push(finding);
                    }
                });
            }
        });
        interrupt::check()?;
        progress.print(&format!("all guests: {} s", began.elapsed().as_secs()));
        findings.into_inner().context("no row panics")
    }

    fn run_row(&self, row: &Row, tests: &[String], progress: &Progress) -> Finding {
        let began = Instant::now();
        let mut collector = Collector::new(row, tests, progress);
        let mut retired = None;
        let result = kernels::by_line(row.kernel).and_then(|wanted| match wanted.fetch(&cache_dir()) {
            Err(error) if wanted.retired => {
                retired = Some(format!("{error:#}"));
                Ok(())
            }
            kernel => self.run_in_guest(&kernel?, &mut collector),
        });
        let problem = result.err().map(|error| format!("{error:#}"));
        Finding { retired, problem, took: began.elapsed(), ..collector.finish() }
    }

    fn run_in_guest(&self, kernel: &kernels::Kernel, collector: &mut Collector<'_>) -> Result<()> {
        let (row, tests) = (collector.row, collector.tests);
        let name = row.title().replace(' ', "-");
        let carried = CarriedRate::for_guest(kernel, self.host.accelerator(), &row.environment())?;
        let load = self.load(row, tests, carried.known().filter(|_| self.tier != Tier::All))?;
        // Written line by line, so that a long row can be watched.
        let mut log = fs::File::create(self.host.logs().join(format!("{name}.log")))?;
        let guest = GuestSpec { name: &name, kernel, load: &load, limit: LIMIT };
        let verdicts = self.host.boot(&guest, |line, cost| {
            let _ = writeln!(log, "{line}");
            carried.note(line);
            if collector.add_line(line, cost) == Some(Outcome::Passed) {
                carried.keep();
            }
        });
        let count = verdicts.with_context(|| format!("during {}", collector.running().unwrap_or("the end")))?.len();
        ensure!(count == tests.len(), "only {count} of {} tests ran", tests.len());
        Ok(())
    }

    fn load(&self, row: &Row, tests: &[String], carried: Option<u32>) -> Result<vm::Load> {
        let mut environment = row.environment();
        environment.push((tier::VARIABLE.into(), self.tier.word().into()));
        environment.extend(carried.map(|rate| (guest::CARRIED.into(), rate.to_string())));
        let integration = &self.programs.integration;
        let mut files = vec![self.programs.program("reloader"), self.programs.program("denied"), integration.clone()];
        let mut before = Vec::new();
        match row.denied {
            Denied::Nothing => {}
            Denied::Syscalls(names) => before = ["denied", "--syscalls", names, "--"].map(str::to_owned).to_vec(),
            Denied::Capabilities(names) => {
                files.push(wrapper(&self.host.logs().join(row.title()), names)?);
                environment.push(("RELOADER_BIN".into(), "/programs/reloader-denied".into()));
            }
        }
        let program = format!("/programs/{}", integration.file_name().unwrap_or_default().to_string_lossy());
        let command = |test: &String| vm::GuestCommand {
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

/// Writes a script that runs reloader without these capabilities. The tests need some of them, so only reloader is without.
fn wrapper(folder: &Path, names: &str) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join("reloader-denied");
    fs::write(
        &path,
        format!("#!/bin/sh\nexec /programs/denied --capabilities {names} -- /programs/reloader \"$@\"\n"),
    )?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

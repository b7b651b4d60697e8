//! Runs one integration test in namespaces of its own.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reloader_tests::tier;
use tempfile::NamedTempFile;

use super::libtest::Outcome;
use super::programs::{Programs, Test};
use super::tiers::Tier;
use crate::interrupt;

/// How often a child is checked. std has no wait with a time limit, and no wait that a signal interrupts.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long `isolated` may take to remove what a test has left behind.
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);

/// How much of a program's output is shown, in bytes. The log has all of it.
const OUTPUT_LIMIT: u64 = 1 << 20;

/// The result of a test.
pub(super) struct TestResult {
    pub(super) test: Test,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
    pub(super) output: String,
}

/// Runs the tests of one run.
pub(super) struct Runner<'a> {
    pub(super) programs: &'a Programs,
    pub(super) tier: Tier,
    /// Other servers than the distribution's: variables that name them, and their paths.
    pub(super) servers: Vec<(&'static str, PathBuf)>,
    /// The directory in which the output of each test is kept.
    pub(super) logs: PathBuf,
}

impl Runner<'_> {
    /// Runs a test until it ends or reaches its limit.
    pub(super) fn run(&self, test: &Test, limit: Duration) -> Result<TestResult> {
        // The log has no name while it grows, so that a kill -9 leaves nothing behind.
        let log = tempfile::tempfile_in(&self.logs).with_context(|| self.logs.display().to_string())?;
        let began = Instant::now();
        let child = self.command(test, limit, &log)?.spawn().context("starting `isolated`")?;
        let status = wait(child, limit + CLEANUP_LIMIT)?;
        let took = began.elapsed();
        let output = end_of(&log)?;
        self.keep(&log, test)?;
        Ok(TestResult { test: test.clone(), outcome: Outcome::from_program(status.code(), &output), took, output })
    }

    /// Stores the log under the test's name. The rename is atomic, because another run in this checkout may do the same.
    fn keep(&self, mut log: &File, test: &Test) -> Result<()> {
        let mut kept = NamedTempFile::new_in(&self.logs)?;
        log.rewind()?;
        std::io::copy(&mut log, &mut kept)?;
        kept.persist(self.logs.join(format!("{}.log", test.name.replace("::", "."))))?;
        Ok(())
    }

    fn command(&self, test: &Test, limit: Duration, log: &File) -> Result<Command> {
        let mut command = Command::new(self.programs.program("isolated"));
        command.arg(limit.as_secs().to_string()).arg("--").arg(&self.programs.integration);
        command.args(["--exact", &test.name, "--include-ignored", "--nocapture"]);
        command.env("RELOADER_BIN", self.programs.program("reloader")).env(tier::VARIABLE, self.tier.word());
        command.envs(self.servers.iter().map(|(variable, path)| (variable, path)));
        command.current_dir(crate::repository().join("tests"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        Ok(command)
    }
}

/// The last [`OUTPUT_LIMIT`] bytes that a program has printed.
pub(super) fn end_of(file: &File) -> Result<String> {
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    let mut file = file;
    file.seek(SeekFrom::Start(length.saturating_sub(OUTPUT_LIMIT)))?;
    file.take(OUTPUT_LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for a child. If the run is interrupted, the child gets SIGTERM. A child that does not end within the limit is killed.
pub(super) fn wait(mut child: Child, limit: Duration) -> Result<ExitStatus> {
    let mut deadline = Instant::now() + limit;
    let mut is_signalled = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
        }
        if interrupt::is_requested() && !is_signalled {
            deadline = deadline.min(Instant::now() + CLEANUP_LIMIT);
            // Ctrl-C reaches the child by itself, SIGTERM to this process does not. The child ends everything the test has started.
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
            is_signalled = true;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

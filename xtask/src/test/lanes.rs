//! The integration tests on this machine: first those that take no notice of each other, several at a time, then those that
//! need the machine to themselves.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use super::libtest::Outcome;
use super::machine_lock::MachineLock;
use super::programs::Test;
use super::report::Report;
use super::single::{Runner, TestResult};
use super::tiers::Tiers;
use crate::interrupt;

/// Most of them wait most of the time.
const AT_ONCE: usize = 3;

/// Runs all of them. What fails keeps nothing back; an error is one of the runner's own, or an interruption.
pub(super) fn run(runner: &Runner<'_>, tests: Vec<Test>, tiers: &Tiers, report: &mut Report) -> Result<()> {
    let (alone, beside): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.is_alone);
    let progress = Progress::new(alone.len() + beside.len());
    let began = Instant::now();
    {
        let _machine = MachineLock::shared()?;
        let ended = side_by_side(runner, beside, tiers, &progress)?;
        report.add_phase("tests, side by side", began.elapsed());
        report.add_tests(ended, tiers);
    }
    let began = Instant::now();
    for test in &alone {
        let _machine = MachineLock::alone()?;
        let ended = runner.run(test, tiers.limit(&test.name))?;
        interrupt::check()?;
        progress.tell(&ended);
        report.add_tests(vec![ended], tiers);
    }
    report.add_phase("tests, alone", began.elapsed());
    progress.bar.finish_and_clear();
    Ok(())
}

fn side_by_side(runner: &Runner<'_>, tests: Vec<Test>, tiers: &Tiers, progress: &Progress) -> Result<Vec<TestResult>> {
    // Those with the longest limits first, so that none is left alone at the end.
    let mut tests = tests;
    tests.sort_by_key(|test| std::cmp::Reverse(tiers.limit(&test.name)));
    let (queue, all) = (Mutex::new(VecDeque::from(tests)), Mutex::new(Vec::new()));
    let next = || queue.lock().expect("no runner panics").pop_front();
    let work = || -> Result<()> {
        while let Some(test) = next() {
            interrupt::check()?;
            let ended = runner.run(&test, tiers.limit(&test.name))?;
            interrupt::check()?;
            progress.tell(&ended);
            all.lock().expect("no runner panics").push(ended);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no runner panics"))
    })?;
    Ok(all.into_inner().expect("no runner panics"))
}

/// A bar on a terminal; elsewhere, and there too, what failed.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(tests: usize) -> Progress {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(tests as u64) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}").expect("a template");
        Progress { bar: bar.with_style(style) }
    }

    fn tell(&self, ended: &TestResult) {
        self.bar.inc(1);
        self.bar.set_message(ended.test.name.clone());
        let what = match &ended.outcome {
            Outcome::Passed | Outcome::Skipped(_) => return,
            Outcome::Failed => "FAILED",
            Outcome::Killed => "KILLED at its limit:",
        };
        let text = format!("{what} {} after {:.1} s\n{}", ended.test.name, ended.took.as_secs_f64(), ended.output);
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

//! Runs the integration tests on this machine in two lanes: first the independent ones, several at a time, then those that need the machine
//! to themselves.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Result;

use super::machine_lock::MachineLock;
use super::programs::Test;
use super::progress::Progress;
use super::report::Report;
use super::single::{Runner, TestResult};
use super::tiers::Tiers;
use crate::interrupt;

/// How many tests run side by side. Most of them wait most of the time.
const AT_ONCE: usize = 3;

/// Runs both lanes.
pub(super) struct Lanes<'a> {
    pub(super) runner: Runner<'a>,
    pub(super) tiers: &'a Tiers,
    pub(super) progress: &'a Progress,
}

impl Lanes<'_> {
    /// Runs all tests. A failed test does not prevent the others.
    ///
    /// # Errors
    /// If a test could not be run, or the run was interrupted.
    pub(super) fn run(&self, tests: Vec<Test>, report: &mut Report) -> Result<()> {
        let (alone, side_by_side): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.is_alone);
        let began = Instant::now();
        {
            let _machine = MachineLock::shared()?;
            let ended = self.run_side_by_side(side_by_side)?;
            report.add_phase("tests, side by side", began.elapsed());
            report.add_tests(ended, self.tiers);
        }
        let began = Instant::now();
        for test in &alone {
            let _machine = MachineLock::alone()?;
            let ended = self.run_test(test)?;
            report.add_tests(vec![ended], self.tiers);
        }
        report.add_phase("tests, alone", began.elapsed());
        Ok(())
    }

    fn run_side_by_side(&self, tests: Vec<Test>) -> Result<Vec<TestResult>> {
        // The tests with the longest limits run first, so that no long test is left over at the end.
        let mut tests = tests;
        tests.sort_by_key(|test| std::cmp::Reverse(self.tiers.limit(&test.name)));
        let (queue, all) = (Mutex::new(VecDeque::from(tests)), Mutex::new(Vec::new()));
        let next = || queue.lock().expect("no runner panics").pop_front();
        let work = || -> Result<()> {
            while let Some(test) = next() {
                interrupt::check()?;
                let ended = self.run_test(&test)?;
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

    fn run_test(&self, test: &Test) -> Result<TestResult> {
        let ended = self.runner.run(test, self.tiers.limit(&test.name))?;
        interrupt::check()?;
        self.progress.add(&test.name, &ended.outcome, ended.took.as_secs_f64(), &ended.output);
        Ok(ended)
    }
}

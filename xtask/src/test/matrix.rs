//! Chooses the rows of the kernel matrix (kernel x gate), and reports their results.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::guests::Guests;
use super::ladder::Ladder;
use super::programs::{Programs, Test};
use super::report::Report;
use super::rows::{self, Row};
use super::table::{self, Finding};
use super::tiers::{Tier, Tiers};
use crate::dist;
use crate::vm::{self, Accelerator, Host};

/// What to run.
pub(super) struct Matrix<'a> {
    pub(super) tier: Tier,
    pub(super) tiers: &'a Tiers,
    /// Only rows of this kernel.
    pub(super) kernel: Option<&'a str>,
    /// Only rows of this name.
    pub(super) name: Option<&'a str>,
    /// Only tests whose names contain this text.
    pub(super) filter: Option<&'a str>,
}

/// The titles of all rows.
pub(super) fn titles() -> Vec<String> {
    rows::all().iter().map(Row::title).collect()
}

impl<'a> Matrix<'a> {
    /// Builds the guests' programs and chooses the rows. None if no row has a requested test.
    pub(super) fn prepare(&self, report: &mut Report) -> Result<Option<Guests<'a>>> {
        let began = Instant::now();
        let programs = Programs::build_static(vm::PROFILE)?;
        dist::verify(&programs.program("reloader"))?;
        let mut host = Host::with_programs(programs.folder.clone())?;
        if let Accelerator::Emulated(why) = host.accelerator() {
            eprintln!("guests are emulated: {why}");
            if let Err(error) = host.make_idle() {
                eprintln!("guests run after all other tests: {error:#}");
            }
        }
        let rows = self.rows(&programs.tests()?, report)?;
        if rows.is_empty() {
            report.add_skipped("guests".into(), "no row has a test with this name".into());
            return Ok(None);
        }
        let guests = Guests { tier: self.tier, tiers: self.tiers, host, programs, rows };
        guests.warm_up();
        report.add_phase("build for guests", began.elapsed());
        Ok(Some(guests))
    }

    fn rows(&self, tests: &[Test], report: &mut Report) -> Result<Vec<(Row, Vec<String>)>> {
        let (wanted, left_out): (Vec<Row>, Vec<Row>) = rows::all()
            .into_iter()
            .filter(|row| self.is_wanted(row))
            .partition(|row| self.is_requested_by_name() || self.tiers.includes_row(self.tier, &row.title()));
        for row in left_out {
            report.add_skipped(format!("row {}", row.title()), "runs only with --all (tests/tiers.toml)".into());
        }
        ensure!(!wanted.is_empty(), "no row fits; the rows are {}", titles().join(", "));
        let with_tests = wanted.into_iter().map(|row| Ok((self.tests_of(&row, tests)?, row)));
        let with_tests: Vec<(Vec<String>, Row)> = with_tests.collect::<Result<_>>()?;
        Ok(with_tests.into_iter().filter(|(tests, _)| !tests.is_empty()).map(|(tests, row)| (row, tests)).collect())
    }

    /// Whether a requested row has any of these tests. It can be asked before the guests' programs are built.
    pub(super) fn has_any_of(&self, tests: &[Test]) -> Result<bool> {
        for row in rows::all().iter().filter(|row| self.is_wanted(row)) {
            if !self.tests_of(row, tests)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_wanted(&self, row: &Row) -> bool {
        self.kernel.is_none_or(|kernel| kernel == row.kernel) && self.name.is_none_or(|name| name == row.name)
    }

    /// Whether rows or tests were requested by name: those run whatever their tier.
    fn is_requested_by_name(&self) -> bool {
        self.kernel.is_some() || self.name.is_some() || self.filter.is_some()
    }

    fn tests_of(&self, row: &Row, tests: &[Test]) -> Result<Vec<String>> {
        let mut chosen = row.chosen(tests)?;
        chosen.retain(|test| match self.filter {
            Some(filter) => test.contains(filter),
            None => self.is_requested_by_name() || self.tiers.includes_in_row(self.tier, &row.title(), test),
        });
        Ok(chosen)
    }
}

/// Prints the tables of these rows, and adds their results to the report.
pub(super) fn report_findings(findings: Vec<Finding>, tiers: &Tiers, report: &mut Report) {
    print!("{}", table::text(&findings));
    let ladder = Ladder::from_findings(&findings);
    println!("{}", ladder.text());
    // Rows of the same name run the same tests, whatever was requested.
    if let Some(gap) = ladder.gap() {
        report.add_failure(gap);
    }
    findings.into_iter().for_each(|finding| finding.into_report(report, tiers));
}

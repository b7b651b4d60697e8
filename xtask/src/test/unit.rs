//! Runs the unit tests and the examples in the documentation, which need no privilege.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use reloader_tests::cargo::cargo;

use super::programs::UnitTests;
use super::report::Report;
use super::single;
use crate::interrupt;

/// The limit for the tests of one crate: many times what they take.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs all unit tests and examples, and adds them to the report. With `isolated`, which needs root, a program that hangs is killed with all
/// its children.
pub(super) fn run(programs: &BTreeMap<String, UnitTests>, isolated: Option<&Path>, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    for (name, unit) in programs {
        let mut command = match isolated {
            Some(isolated) => {
                let mut command = Command::new(isolated);
                command.arg(LIMIT.as_secs().to_string()).arg("--").arg(&unit.program);
                command
            }
            None => Command::new(&unit.program),
        };
        command.current_dir(&unit.folder).arg("--quiet");
        let (status, text) = output_of(&mut command)?;
        interrupt::check()?;
        if !status.success() {
            eprintln!("FAILED unit tests of {name}\n{text}");
        }
        report.add_unit(name, &text, status.success());
    }
    report.add_phase("unit tests", began.elapsed());
    let began = Instant::now();
    let mut cargo = cargo();
    cargo.args(["test", "--locked", "--quiet", "--workspace", "--exclude", "reloader-tests", "--doc"]);
    let (status, text) = output_of(&mut cargo)?;
    interrupt::check()?;
    if !status.success() {
        eprintln!("FAILED examples in the documentation\n{text}");
    }
    report.add_unit("examples in the documentation", &text, status.success());
    report.add_phase("documentation's examples", began.elapsed());
    Ok(())
}

/// Runs a program and gives its status and both output streams.
fn output_of(command: &mut Command) -> Result<(ExitStatus, String)> {
    let output = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let program = command.get_program().display().to_string();
    let status = single::wait(command.spawn().with_context(|| program)?, 2 * LIMIT)?;
    Ok((status, single::end_of(&output)?))
}

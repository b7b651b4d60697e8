//! What needs no privilege: the unit tests, and the examples in the documentation.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::report::Report;
use crate::interrupt;

/// Runs them all, then says which failed.
pub(super) fn run(programs: &BTreeMap<String, PathBuf>, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    for (name, program) in programs {
        let folder = crate::repository().join(folder(name));
        let output = Command::new(program).current_dir(&folder).arg("--quiet").output();
        let output = output.with_context(|| program.display().to_string())?;
        interrupt::check()?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        if !output.status.success() {
            eprintln!("FAILED unit tests of {name}\n{text}");
        }
        report.add_unit(name, &text, output.status.success());
    }
    report.add_phase("unit tests", began.elapsed());
    let began = Instant::now();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--locked", "--quiet", "--workspace", "--exclude", "reloader-tests", "--doc"]);
    let output = cargo.output().context("running cargo")?;
    interrupt::check()?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if !output.status.success() {
        eprintln!("FAILED examples in the documentation\n{text}");
    }
    report.add_unit("examples in the documentation", &text, output.status.success());
    report.add_phase("documentation's examples", began.elapsed());
    Ok(())
}

/// cargo runs the tests of a package in the package's folder: `reloader_tests (lib)` is in `tests`.
fn folder(name: &str) -> &str {
    let target = name.split(' ').next().unwrap_or_default();
    match target {
        "reloader" | "xtask" => target,
        "reloader_ebpf" => "reloader-ebpf",
        _ => "tests",
    }
}

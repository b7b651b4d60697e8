//! Runs the unit tests and the examples in the documentation, which need no privilege.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use reloader_tests::cargo::cargo;

use super::report::Report;
use super::single;
use crate::interrupt;

/// Many times what the tests of one crate take.
const LIMIT_S: u32 = 300;

/// Runs them all, then says which failed. With `isolated`, which takes root, one that hangs is killed.
pub(super) fn run(programs: &BTreeMap<String, PathBuf>, isolated: Option<&Path>, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    for (name, program) in programs {
        let mut command = match isolated {
            Some(isolated) => {
                let mut command = Command::new(isolated);
                command.arg(LIMIT_S.to_string()).arg("--").arg(program);
                command
            }
            None => Command::new(program),
        };
        command.current_dir(crate::repository().join(folder(name))).arg("--quiet");
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

/// Both streams, once the program has ended.
fn output_of(command: &mut Command) -> Result<(ExitStatus, String)> {
    let mut output = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let program = command.get_program().display().to_string();
    let status = single::wait(command.spawn().with_context(|| program)?)?;
    let mut text = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut text)?;
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
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

//! Runs a program with a time limit.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reloader_tests::poll::satisfied_within;

/// Runs a command and gives its output, as [`Command::output`] does.
///
/// # Errors
/// If the command still runs after `limit`: it is killed, and the message ends with its stderr.
pub(super) fn output_within(mut command: Command, limit: Duration) -> Result<Output> {
    // The output goes to files. A pipe would have to be read while the command runs.
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let program = command.get_program().display().to_string();
    let mut running = Running(command.spawn().with_context(|| format!("running {program}"))?);
    let status = running.within(limit)?;
    // The command has ended or is killed here, so the files are complete.
    drop(running);
    let (stdout, stderr) = (content(&mut stdout)?, content(&mut stderr)?);
    match status {
        Some(status) => Ok(Output { status, stdout, stderr }),
        None => bail!("{program} still ran after {limit:?}: {}", String::from_utf8_lossy(&stderr).trim()),
    }
}

/// A running command, killed on drop.
struct Running(Child);

impl Running {
    fn within(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let mut ended = Ok(None);
        satisfied_within(limit, || {
            ended = self.0.try_wait();
            !matches!(ended, Ok(None))
        });
        ended.context("waiting for it")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `Child` does not signal a process that was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn content(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str, limit: Duration) -> Result<Output> {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        output_within(command, limit)
    }

    #[test]
    fn ended_command_gives_status_and_output() {
        let output = shell("echo one; echo two >&2; exit 3", Duration::from_secs(60)).unwrap();
        assert_eq!((output.status.code(), &*output.stdout, &*output.stderr), (Some(3), &b"one\n"[..], &b"two\n"[..]));
    }

    #[test]
    fn command_over_its_limit_is_killed() {
        let error = shell("echo $$ >&2; exec sleep 1000", Duration::from_secs(1)).unwrap_err().to_string();
        let (_, pid) = error.split_once("still ran after 1s: ").unwrap_or_else(|| panic!("{error}"));
        assert!(!std::path::Path::new("/proc").join(pid).exists(), "{error}");
    }
}

//! Reloads the service by a shell command.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};

use super::reload_method::{ReloadMethod, ReloadReport, ReloadResult};
use crate::process::{Ended, Handle};
use crate::sys::{Inheritance, start_in_own_session};

/// Lines of a command's output that are shown when it fails.
const MAX_SHOWN_LINES: usize = 20;
/// Bytes from the end of the output that are read for them.
const MAX_READ_BYTES: u64 = 16 << 10;

/// A command for `sh -c` that reloads the service.
pub struct ShellCommand {
    /// The argument of `sh -c`.
    pub command: String,
    /// The limits that it starts with; `None`: the current ones of this process.
    pub inheritance: Option<Inheritance>,
}

impl ReloadMethod for ShellCommand {
    async fn reload(&self) -> ReloadReport {
        match self.run().await {
            Ok((Ended::Exited(0), _)) => ReloadReport::plain(ReloadResult::Done),
            Ok((ended, output)) => {
                ReloadReport { output, ..ReloadReport::failed(format!("`{}` {ended}", self.command)) }
            }
            Err(error) => ReloadReport::failed(format!("`{}` cannot be run: {error}", self.command)),
        }
    }
}

impl ShellCommand {
    async fn run(&self) -> std::io::Result<(Ended, Vec<String>)> {
        // Not a pipe: a server that the command leaves running may keep its output open for ever.
        let mut output = tempfile::tempfile()?;
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(&self.command).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output.try_clone()?);
        // A Ctrl-C is meant for the load. It must not leave the service half reloaded. Without a terminal, a command that
        // would ask for a password fails instead of waiting.
        start_in_own_session(&mut command);
        if let Some(inheritance) = &self.inheritance {
            inheritance.pass_limits_to(&mut command);
        }
        let process = Handle::spawn(&mut command).map_err(std::io::Error::other)?;
        let ended = process.ended().await;
        let lines = if ended == Ended::Exited(0) { Vec::new() } else { last_lines(&mut output)? };
        Ok((ended, lines))
    }
}

fn last_lines(output: &mut File) -> std::io::Result<Vec<String>> {
    let length = output.seek(std::io::SeekFrom::End(0))?;
    output.seek(std::io::SeekFrom::Start(length.saturating_sub(MAX_READ_BYTES)))?;
    let mut bytes = Vec::new();
    output.take(MAX_READ_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(MAX_SHOWN_LINES)..].iter().map(|line| (*line).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(command: &str) -> ReloadReport {
        ShellCommand { command: command.into(), inheritance: None }.reload().await
    }

    #[tokio::test]
    async fn successful_command_reports_no_output() {
        assert_eq!(shell("echo hello").await, ReloadReport::plain(ReloadResult::Done));
    }

    #[tokio::test]
    async fn failed_command_reports_its_last_lines() {
        let failed = shell("seq 100; echo wrong >&2; exit 3").await;
        assert_eq!(failed.result, ReloadResult::Failed);
        assert!(failed.reason.unwrap().ends_with("` exited with status 3"));
        assert_eq!((failed.output.len(), failed.output[19].as_str()), (20, "wrong"));
        let missing = shell("no-such-command").await;
        assert!(missing.output.iter().any(|line| line.contains("not found")), "{:?}", missing.output);
    }

    /// The sixth word of /proc/PID/stat is the session (proc_pid_stat(5)).
    #[tokio::test]
    async fn command_runs_in_a_session_without_a_terminal() {
        let leader = shell("set -- $(cat /proc/$$/stat); test $6 = $$").await;
        assert_eq!(leader.result, ReloadResult::Done, "{:?}", leader.output);
    }

    /// With a pipe for the output, this would wait for the process in the background.
    #[tokio::test]
    async fn background_process_of_a_command_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let left = shell(&format!("cat {} & exit 4", fifo.display())).await;
        assert_eq!(left.result, ReloadResult::Failed);
        // Opening and closing the other end of the fifo ends the process.
        drop(File::options().write(true).open(&fifo).unwrap());
    }
}

//! What reloads the service.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};

use super::findings::{Attempt, Way};
use crate::process::{Ended, Handle};
use crate::sys::{Inheritance, start_in_own_session};

/// Lines of what a command said that are shown when it fails.
const LAST_LINES: usize = 20;
/// Bytes of it that are looked at.
const LAST_BYTES: u64 = 16 << 10;

/// Whatever reloads.
pub trait Reload {
    /// Reloads once, and gives the outcome when there is one.
    fn reload(&self) -> impl Future<Output = Attempt>;
}

/// A command for `sh -c`.
pub struct Shell {
    /// The command.
    pub command: String,
    /// What limits it starts with; `None`: this process's present ones.
    pub inheritance: Option<Inheritance>,
}

impl Reload for Shell {
    async fn reload(&self) -> Attempt {
        match self.run().await {
            Ok((Ended::Exited(0), _)) => Attempt { way: Way::Done, said: None, output: Vec::new() },
            Ok((ended, output)) => {
                Attempt { way: Way::Failed, said: Some(format!("`{}` {ended}", self.command)), output }
            }
            Err(error) => {
                let said = format!("`{}` cannot be run: {error}", self.command);
                Attempt { way: Way::Failed, said: Some(said), output: Vec::new() }
            }
        }
    }
}

impl Shell {
    async fn run(&self) -> std::io::Result<(Ended, Vec<String>)> {
        // Not a pipe: the server that it leaves running may keep its output open for ever.
        let mut output = tempfile::tempfile()?;
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(&self.command).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output.try_clone()?);
        // A Ctrl-C ends the load; a service must not be left half reloaded by it. And one that would ask for a password must
        // fail, not wait.
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
    output.seek(std::io::SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
    let mut bytes = Vec::new();
    output.take(LAST_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(|line| (*line).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(command: &str) -> Attempt {
        Shell { command: command.into(), inheritance: None }.reload().await
    }

    #[tokio::test]
    async fn a_command_that_ends_well_says_nothing() {
        let good = shell("echo hello").await;
        assert_eq!((good.way, good.said, good.output), (Way::Done, None, Vec::new()));
    }

    #[tokio::test]
    async fn a_command_that_fails_is_told_with_its_last_words() {
        let bad = shell("seq 100; echo wrong >&2; exit 3").await;
        assert_eq!(bad.way, Way::Failed);
        assert!(bad.said.unwrap().ends_with("` exited with status 3"));
        assert_eq!((bad.output.len(), bad.output[19].as_str()), (20, "wrong"));
        let missing = shell("no-such-command-of-anybody").await;
        assert!(missing.output.iter().any(|line| line.contains("not found")), "{:?}", missing.output);
    }

    /// The sixth word of it is the session (proc_pid_stat(5)).
    #[tokio::test]
    async fn a_command_has_no_terminal_to_ask() {
        let leader = shell("set -- $(cat /proc/$$/stat); test $6 = $$").await;
        assert_eq!(leader.way, Way::Done, "{:?}", leader.output);
    }

    /// With a pipe this would wait for the sleeper.
    #[tokio::test]
    async fn what_a_command_leaves_running_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let left = shell(&format!("cat {} & exit 4", fifo.display())).await;
        assert_eq!(left.way, Way::Failed);
        // Opening and closing the other end lets it go.
        drop(File::options().write(true).open(&fifo).unwrap());
    }
}

//! A command that is run to its end.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::{Ended, Handle};
use crate::sys::NotForChildren;

/// How long the end of what a command says is waited for after its own end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs a command; what it said on standard error, or why it cannot be run, where it does not succeed. It may hang: whoever drops
/// this ends the process.
pub async fn succeeds(command: &mut Command) -> Result<(), Vec<String>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |error: &dyn std::fmt::Display| vec![format!("cannot run {program}: {error}")];
    let (mut reader, writer) = std::io::pipe().map_err(|error| failed(&error))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    keep_to_itself(command);
    let running = Running(Handle::spawn(command).map_err(|error| failed(&error))?);
    // Its end of the pipe goes with this: the last one open is now the process's own.
    command.stderr(Stdio::null());
    let said = tokio::task::spawn_blocking(move || {
        let mut said = Vec::new();
        let _ = reader.read_to_end(&mut said);
        said
    });
    let ended = match running.0.ended().await {
        Ended::Exited(0) => return Ok(()),
        ended => ended,
    };
    // A child of its own may keep its standard error open.
    let said = tokio::time::timeout(LAST_WORDS, said).await.map(Result::unwrap_or_default).unwrap_or_default();
    let lines: Vec<String> = String::from_utf8_lossy(&said).lines().map(str::to_owned).collect();
    Err(if lines.is_empty() { vec![format!("{program} {ended}")] } else { lines })
}

/// Starts a command that nobody waits for, and reaps it.
///
/// # Errors
/// A sentence.
pub fn run_aside(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    keep_to_itself(command);
    // In a group of its own a Ctrl-C at the daemon's terminal does not reach it.
    command.stdin(Stdio::null()).process_group(0);
    let process = Handle::spawn(command).map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        match process.ended().await {
            Ended::Exited(0) => {}
            ended => log::warn!("{program} (process {}) {ended}", process.pid()),
        }
    });
    Ok(())
}

/// Takes away what speaks to the daemon only.
fn keep_to_itself(command: &mut Command) {
    for variable in NotForChildren::VARIABLES {
        command.env_remove(variable);
    }
}

/// A process that nobody waits for any more is ended, and reaped.
struct Running(Handle);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_ended().is_none() {
            self.0.signal(Signal::KILL);
            let process = self.0.clone();
            tokio::spawn(async move { process.ended().await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended_when_nobody_waits_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut command = shell(&format!("echo $$ > {0}/pid; exec cat {0}/fifo", directory.path().display()));
        let written = || std::fs::read_to_string(directory.path().join("pid")).ok()?.trim_end().parse::<u32>().ok();
        let pid = tokio::select! {
            _ = succeeds(&mut command) => panic!("it ended"),
            pid = async {
                loop {
                    if let Some(pid) = written() {
                        return pid;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            } => pid,
        };
        while std::path::Path::new(&format!("/proc/{pid}")).exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn what_it_says_is_told() {
        assert_eq!(succeeds(&mut shell("echo this is wrong >&2; exit 1")).await, Err(vec!["this is wrong".into()]));
        assert_eq!(succeeds(&mut shell("exit 3")).await, Err(vec!["/bin/sh exited with status 3".into()]));
        assert_eq!(succeeds(&mut shell("exit 0")).await, Ok(()));
    }
}

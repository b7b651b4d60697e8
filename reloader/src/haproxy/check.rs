//! `haproxy -c`: whether HAProxy would take its configuration.

use std::io::Read;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::config::Haproxy;
use crate::process::{Ended, Handle};

/// The command that lets HAProxy check its configuration.
pub fn check_command(haproxy: &Haproxy) -> Command {
    let mut command = Command::new(&haproxy.binary);
    command.arg("-c").args(&haproxy.args).stdin(Stdio::null());
    for file in &haproxy.config {
        command.arg("-f").arg(file);
    }
    command
}

/// Asks HAProxy; its own lines when it refuses. It may wait for a name server: whoever drops this ends the process.
pub async fn check(haproxy: &Haproxy) -> Result<(), Vec<String>> {
    let failed = |error: &dyn std::fmt::Display| vec![format!("cannot run {}: {error}", haproxy.binary.display())];
    let (mut reader, writer) = std::io::pipe().map_err(|error| failed(&error))?;
    let mut command = check_command(haproxy);
    command.stdout(Stdio::null()).stderr(writer);
    let checking = Checking(Handle::spawn(&mut command).map_err(|error| failed(&error))?);
    // Its end of the pipe: the last one open is now the process's own.
    drop(command);
    let said = tokio::task::spawn_blocking(move || {
        let mut said = Vec::new();
        let _ = reader.read_to_end(&mut said);
        said
    });
    match checking.0.ended().await {
        Ended::Exited(0) => Ok(()),
        _ => Err(String::from_utf8_lossy(&said.await.unwrap_or_default()).lines().map(str::to_owned).collect()),
    }
}

/// A process that nobody waits for any more is ended, and reaped.
struct Checking(Handle);

impl Drop for Checking {
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
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    fn haproxy(script: &str) -> Haproxy {
        Haproxy { binary: "/bin/sh".into(), config: vec![PathBuf::from("/dev/null")], args: vec![script.into()] }
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended_when_nobody_waits_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        // `sh -c SCRIPT` waits until somebody opens the pipe.
        let haproxy = haproxy(&format!("echo $$ > {0}/pid; exec cat {0}/fifo", directory.path().display()));
        let written = || std::fs::read_to_string(directory.path().join("pid")).ok()?.trim_end().parse::<u32>().ok();
        let pid = tokio::select! {
            _ = check(&haproxy) => panic!("it ended"),
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
        assert_eq!(check(&haproxy("echo this is wrong >&2; exit 1")).await, Err(vec!["this is wrong".into()]));
        assert_eq!(check(&haproxy("exit 0")).await, Ok(()));
    }
}

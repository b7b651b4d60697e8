//! Runs commands without blocking the daemon's loop.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, setpriority_process};
use tokio::task::JoinHandle;

use super::{Ended, Handle};
use crate::sys::{NotForChildren, end_with_this_thread};

/// How long to wait for the rest of a command's standard error after the command has ended.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// The nice value of a command in the background.
const LOWEST_PRIORITY: i32 = 19;

/// The `oom_score_adj` of a command in the background: its memory is given back before that of a server.
const ENDED_FIRST: &str = "1000";

/// How many bytes of a command's output are kept, the last ones.
const MAX_OUTPUT: usize = 64 << 10;

/// Runs a command to its end. A command that hangs is killed when this future is dropped.
///
/// # Errors
/// The command cannot be started, or does not exit with status 0. The lines are those of its standard error, or one sentence.
pub async fn run_to_success(command: &mut Command) -> Result<(), Vec<String>> {
    run_with(command, Priority::Usual).await
}

/// Does the same while other processes come first.
///
/// # Errors
/// As [`run_to_success`].
pub async fn run_to_success_in_background(command: &mut Command) -> Result<(), Vec<String>> {
    run_with(command, Priority::Lowest).await
}

/// How much of the processor a command gets, and whether it gives back its memory first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Priority {
    Usual,
    Lowest,
}

async fn run_with(command: &mut Command, priority: Priority) -> Result<(), Vec<String>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |error: &dyn std::fmt::Display| vec![format!("cannot run {program}: {error}")];
    let (reader, writer) = std::io::pipe().map_err(|error| failed(&error))?;
    command.stdout(Stdio::null()).stderr(writer);
    let (ended, output) = run(command, reader, priority, |command| {
        command.stderr(Stdio::null());
    })
    .await
    .map_err(|error| failed(&error))?;
    if ended == Ended::Exited(0) {
        return Ok(());
    }
    let output = last_words(output).await;
    let lines: Vec<String> = String::from_utf8_lossy(&output).lines().map(str::to_owned).collect();
    Err(if lines.is_empty() { vec![format!("{program} {ended}")] } else { lines })
}

/// Runs a command for at most `timeout`. Returns how it ended, and its standard output.
///
/// # Errors
/// The command cannot be started, or `TimedOut`. Then it is killed.
pub async fn output_within(command: &mut Command, timeout: Duration) -> io::Result<(Ended, Vec<u8>)> {
    let (reader, writer) = std::io::pipe()?;
    command.stdout(writer).stderr(Stdio::null());
    let output = async {
        let (ended, output) = run(command, reader, Priority::Usual, |command| {
            command.stdout(Stdio::null());
        })
        .await?;
        Ok((ended, last_words(output).await))
    };
    tokio::time::timeout(timeout, output).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Runs a command that writes to the other end of `reader`. `let_go` closes our copy of that end, so that the reader reaches the
/// end of the file when the command closes its own. Returns how the command ended, and the task that reads.
async fn run(
    command: &mut Command,
    reader: std::io::PipeReader,
    priority: Priority,
    let_go: impl FnOnce(&mut Command),
) -> io::Result<(Ended, JoinHandle<Vec<u8>>)> {
    // The command gets a process group of its own, so that it can be killed together with all processes that it started.
    command.stdin(Stdio::null()).process_group(0);
    remove_service_variables(command);
    // After a `kill -9` of this process, nothing else would end the command.
    end_with_this_thread(command);
    let running = Running(Handle::spawn(command).map_err(io::Error::other)?);
    if priority == Priority::Lowest {
        put_last(running.0.pid());
    }
    let_go(command);
    let output = tokio::task::spawn_blocking(move || read_tail(reader));
    Ok((running.0.ended().await, output))
}

/// Lets other processes come first, also where the kernel ends one because there is no memory left.
fn put_last(pid: u32) {
    if let Err(error) = std::fs::write(format!("/proc/{pid}/oom_score_adj"), ENDED_FIRST) {
        log::debug!("process {pid} is not the first to end where there is no memory left: {error}");
    }
    if let Some(pid) = Pid::from_raw(pid as i32)
        && let Err(errno) = setpriority_process(Some(pid), LOWEST_PRIORITY)
    {
        log::debug!("process {pid} runs at the usual priority: {errno}");
    }
}

/// The last bytes of a command's output, because they usually say why the command failed. All output is read, because a full pipe would
/// stop the command.
fn read_tail(mut reader: impl Read) -> Vec<u8> {
    let (mut tail, mut block) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = reader.read(&mut block) {
        tail.extend(&block[..length]);
        if tail.len() > 2 * MAX_OUTPUT {
            tail.drain(..tail.len() - MAX_OUTPUT);
        }
    }
    tail.split_off(tail.len().saturating_sub(MAX_OUTPUT))
}

/// The rest of the output of a command that has ended. A child of it may keep the pipe open.
async fn last_words(output: JoinHandle<Vec<u8>>) -> Vec<u8> {
    tokio::time::timeout(OUTPUT_TIMEOUT, output).await.map(Result::unwrap_or_default).unwrap_or_default()
}

/// Starts a command and returns at once. A task reaps it and logs a failure.
///
/// # Errors
/// The command cannot be started. The text is a sentence.
pub fn start_detached(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    remove_service_variables(command);
    // The command gets a process group of its own, so that a Ctrl-C at the daemon's terminal does not reach it.
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

/// Removes the environment variables that are meant for the daemon only.
fn remove_service_variables(command: &mut Command) {
    for variable in NotForChildren::VARIABLES {
        command.env_remove(variable);
    }
}

/// Kills the group of its process, and reaps the process, when it is dropped.
struct Running(Handle);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_ended().is_none() {
            self.0.kill_group();
            let process = self.0.clone();
            tokio::spawn(async move { process.ended().await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{has_ended, start_time};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_when_its_future_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut command = shell(&format!("echo $$ > {0}/pid; exec cat {0}/fifo", directory.path().display()));
        let written = || std::fs::read_to_string(directory.path().join("pid")).ok()?.trim_end().parse::<u32>().ok();
        let pid = tokio::select! {
            _ = run_to_success(&mut command) => panic!("it ended"),
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
    async fn a_failed_command_returns_its_standard_error() {
        assert_eq!(
            run_to_success(&mut shell("echo this is wrong >&2; exit 1")).await,
            Err(vec!["this is wrong".into()])
        );
        assert_eq!(run_to_success(&mut shell("exit 3")).await, Err(vec!["/bin/sh exited with status 3".into()]));
        assert_eq!(run_to_success(&mut shell("exit 0")).await, Ok(()));
    }

    #[tokio::test]
    async fn command_in_the_background_has_the_lowest_priority_and_is_ended_first_without_memory() {
        // The priority is set beside the start, after the other.
        let script = "n=0; until [ \"$(cut -d' ' -f19 /proc/$$/stat)\" = 19 ]; do \
                      n=$((n + 1)); [ $n -lt 1000 ] || exit 1; sleep 0.01; done; \
                      [ \"$(cat /proc/$$/oom_score_adj)\" = 1000 ]";
        assert_eq!(run_to_success_in_background(&mut shell(script)).await, Ok(()));
    }

    #[tokio::test]
    async fn output_is_returned_and_a_command_that_hangs_times_out() {
        let (ended, output) = output_within(&mut shell("echo one; exit 3"), Duration::from_secs(60)).await.unwrap();
        assert_eq!((ended, output), (Ended::Exited(3), b"one\n".to_vec()));
        let error = output_within(&mut shell("exec sleep 1000"), Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn children_of_a_command_that_hangs_are_killed_too() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let mut command = shell(&format!("sleep 1000 & echo $! >{}; wait", file.display()));
        let error = output_within(&mut command, Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let child: u32 = std::fs::read_to_string(&file).unwrap().trim_end().parse().unwrap();
        while start_time(child).is_some_and(|started| !has_ended(child, started)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn end_of_a_long_output_is_kept() {
        let text = [vec![b'x'; 5 * MAX_OUTPUT], b"the reason".to_vec()].concat();
        let tail = read_tail(&text[..]);
        assert_eq!(tail.len(), MAX_OUTPUT);
        assert!(tail.ends_with(b"the reason"));
    }
}

//! Runs commands of reloader as a user or a script does.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::poll::satisfied_within;
use crate::process::exit_code;
use crate::schema;

/// The limit of a command of reloader. A command that takes longer is killed and fails the test.
const LIMIT: Duration = Duration::from_secs(90);

/// The result of a command.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The exit status, or 128 plus the signal if the command was killed.
    pub status: i32,
    /// Standard output, which has the data.
    pub stdout: String,
    /// Standard error, which has the messages.
    pub stderr: String,
    /// Standard output as JSON: an array if it is several lines of JSON, null if it is not JSON.
    pub json: Value,
}

impl Answer {
    /// The answer of a command that has ended.
    pub fn from_output(output: std::process::Output) -> Answer {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let status = exit_code(output.status);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let json = parse(&stdout);
        Answer { status, stdout, stderr, json }
    }

    /// Runs the command to its end. Processes that it leaves running may keep its output open.
    #[track_caller]
    pub fn from_command(command: Command) -> Answer {
        Pending::start(command).wait()
    }

    /// Panics with all output unless the status is this one.
    #[track_caller]
    pub fn expect_status(self, status: i32) -> Answer {
        assert_eq!(self.status, status, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// A value of the JSON by its path, for example `/serving/pid`. Null if there is none.
    pub fn at(&self, path: &str) -> &Value {
        self.json.pointer(path).unwrap_or(&Value::Null)
    }
}

/// A running command. When it is dropped without `wait`, it is killed.
pub struct Pending {
    child: Child,
    words: String,
    stdout: File,
    stderr: File,
}

impl Pending {
    pub(super) fn start(mut command: Command) -> Pending {
        // Files, not pipes: they need no reader while the command runs, and processes that it leaves running cannot
        // keep them open.
        let (stdout, stderr) = (scratch(), scratch());
        command.stdin(Stdio::null()).stdout(copy(&stdout)).stderr(copy(&stderr));
        let words = format!("{command:?}");
        let child = command.spawn().unwrap_or_else(|error| panic!("{words}: {error}"));
        Pending { child, words, stdout, stderr }
    }

    /// The pid of the command.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the command still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("waiting for a child").is_none()
    }

    /// Waits until the command ends. Panics if it does not.
    #[track_caller]
    pub fn wait(mut self) -> Answer {
        let status = self.wait_within(LIMIT);
        let (stdout, stderr) = (text(&mut self.stdout), text(&mut self.stderr));
        let Some(status) = status else { panic!("{} still runs after {LIMIT:?}\n{stdout}{stderr}", self.words) };
        let status = exit_code(status);
        let json = parse(&stdout);
        Answer { status, stdout, stderr, json }
    }

    pub(super) fn wait_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut status = None;
        satisfied_within(limit, || {
            status = self.child.try_wait().expect("waiting for a child");
            status.is_some()
        });
        status
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Child does not signal a process that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn parse(stdout: &str) -> Value {
    let whole = serde_json::from_str(stdout).ok();
    let lines = || stdout.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>().ok();
    let several = || lines().filter(|lines| !lines.is_empty()).map(Value::Array);
    let json = whole.or_else(several).unwrap_or(Value::Null);
    schema::assert_fits(&json);
    json
}

fn scratch() -> File {
    tempfile::tempfile().expect("a temporary file")
}

fn copy(file: &File) -> Stdio {
    file.try_clone().expect("dup").into()
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("reading what was written");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Answer {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Pending::start(command).wait()
    }

    #[test]
    fn answer_has_both_streams_the_status_and_json() {
        let answer = sh("echo '{\"serving\":{\"pid\":7}}'; echo talk >&2; exit 3");
        assert_eq!((answer.status, answer.stderr.as_str(), answer.at("/serving/pid").as_u64()), (3, "talk\n", Some(7)));
        assert_eq!(sh("printf '{}\\n{}\\n'").json.as_array().map(Vec::len), Some(2));
        assert_eq!(sh("echo words; kill -9 $$").status, 137);
        assert!(sh("true").json.is_null());
    }
}

//! Ends all processes that a rig has started, whatever state they are in. HAProxy outlives the daemon by design, so no
//! parent ends it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::process::{Process, mentioning};

/// Kills every recorded generation, every process that has the rig's directory on its command line, and their
/// descendants, until none is left.
pub(super) fn end_all(dir: &Path) {
    // Repeated, because a process may start another one while the list is read.
    for _ in 0..10 {
        let mut left = recorded(&dir.join("run/generations.json"));
        left.extend(mentioning(dir));
        left.retain(Process::is_alive);
        // nginx's workers do not name the directory. After their master's end nothing would find them, and they keep
        // its port.
        let mut next = 0;
        while next < left.len() {
            let children = left[next].children();
            left.extend(children);
            next += 1;
        }
        if left.is_empty() {
            return;
        }
        left.iter().for_each(Process::end);
    }
    eprintln!("processes of {} could not be ended: {:?}", dir.display(), mentioning(dir));
}

fn recorded(file: &Path) -> Vec<Process> {
    let record = fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let mut found = Vec::new();
    collect(&record.unwrap_or(Value::Null), &mut found);
    found
}

/// Collects processes from anywhere in the file.
fn collect(value: &Value, found: &mut Vec<Process>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Object(fields) => {
            let number = |key: &str| fields.get(key).and_then(Value::as_u64);
            if let (Some(pid), Some(start_time)) = (number("pid"), number("start-time")) {
                found.extend(i32::try_from(pid).map(|pid| Process { pid, start_time }));
            }
            fields.values().for_each(|value| collect(value, found));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn children_that_do_not_mention_the_directory_are_ended_too() {
        let dir = tempfile::tempdir().unwrap();
        // A shell gives its background jobs no input unless a redirection says so.
        let script = "exec 3<&0; sh -c 'read line' <&3 & read line";
        let mut parent = Command::new("sh");
        parent.args(["-c", script, dir.path().to_str().unwrap()]).stdin(Stdio::piped());
        let mut parent = parent.spawn().unwrap();
        let process = Process::with_pid(parent.id() as i32).unwrap();
        crate::poll::until(std::time::Duration::from_secs(5), "the child", || !process.children().is_empty());
        let child = process.children()[0];
        assert!(child.is_alive());
        end_all(dir.path());
        // This is checked before the input ends, because the end of the input would end the process as well.
        assert!(!child.is_alive());
        assert!(!parent.wait().unwrap().success());
    }

    #[test]
    fn only_recorded_processes_and_processes_naming_the_directory_are_ended() {
        let dir = tempfile::tempdir().unwrap();
        let sleeper =
            |arg: &str| Command::new("sh").args(["-c", "read line", arg]).stdin(Stdio::piped()).spawn().unwrap();
        let mut mentions = sleeper(dir.path().to_str().unwrap());
        let (mut listed, mut reused) = (sleeper("x"), sleeper("x"));
        let start_time = |pid: u32| Process::with_pid(pid as i32).unwrap().start_time;
        fs::create_dir(dir.path().join("run")).unwrap();
        let record = serde_json::json!({"next": 3, "generations": [
            {"pid": listed.id(), "start-time": start_time(listed.id())},
            {"pid": reused.id(), "start-time": start_time(reused.id()) - 1},
        ]});
        fs::write(dir.path().join("run/generations.json"), record.to_string()).unwrap();
        end_all(dir.path());
        assert!(!mentions.wait().unwrap().success() && !listed.wait().unwrap().success());
        assert!(reused.try_wait().unwrap().is_none(), "another process with the pid of an old one");
        reused.kill().unwrap();
        reused.wait().unwrap();
    }
}

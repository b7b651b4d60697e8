//! Finds a booted machine's first process and control groups on the host, and its files.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::process::{Process, in_process_namespace_of};

/// The child of `ancestor` that is the first process of a new process namespace.
pub(crate) fn first_process_under(ancestor: u32) -> Option<Process> {
    let status = |pid: i32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = |text: &str, key: &str| text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned()));
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found = pids.filter(|pid| {
        let text = status(*pid);
        let is_first = line(&text, "NSpid:").is_some_and(|pids| pids.split_whitespace().nth(1) == Some("1"));
        is_first && line(&text, "PPid:").is_some_and(|parent| parent == ancestor.to_string())
    });
    found.next().and_then(Process::with_pid)
}

/// The process that has this pid in the process namespace of `first`. The last field of `NSpid:` is its pid there.
pub(super) fn process_inside(first: Process, pid: u32) -> Option<Process> {
    let is_it = |process: &Process| {
        let text = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
        let pids = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
        pids.and_then(|pids| pids.split_whitespace().next_back()) == Some(&pid.to_string())
    };
    in_process_namespace_of(first).into_iter().find(is_it)
}

/// A path of the machine with this first process as the host sees it, including the machine's mounts.
pub(super) fn path_inside(first: Process, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{path}", first.pid))
}

/// Writes a file, and makes its directories.
pub(super) fn write_file(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().expect("a file is in a directory")).expect("its directory");
    fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

/// The control groups of nspawn's machines at one moment. nspawn creates two in each hierarchy, and others below them.
pub(super) struct ControlGroups(Vec<PathBuf>);

impl ControlGroups {
    pub(super) fn snapshot() -> ControlGroups {
        let mut found = Vec::new();
        list_below(Path::new("/sys/fs/cgroup"), &mut found);
        let is_nspawns =
            |part: std::path::Component<'_>| ["payload", "supervisor"].map(OsStr::new).contains(&part.as_os_str());
        found.retain(|group| group.components().any(is_nspawns));
        ControlGroups(found)
    }

    /// Removes the groups that were created since the snapshot and are empty: the kernel refuses to remove the others.
    pub(super) fn remove_newer(&self) {
        for group in ControlGroups::snapshot().0.iter().filter(|group| !self.0.contains(group)) {
            let _ = fs::remove_dir(group);
        }
    }
}

/// Lists children before their parents.
fn list_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list_below(&entry.path(), found);
            found.push(entry.path());
        }
    }
}

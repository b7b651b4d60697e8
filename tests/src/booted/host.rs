//! What a machine is on the host: its first process, and its control groups.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::process::Process;

/// The process that is the first of a pid namespace, below this one.
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

/// The control groups of nspawn's machines at some moment. nspawn makes two in each hierarchy, and others below them.
pub(super) struct ControlGroups(Vec<PathBuf>);

impl ControlGroups {
    pub(super) fn now() -> ControlGroups {
        let mut found = Vec::new();
        list_below(Path::new("/sys/fs/cgroup"), &mut found);
        let is_nspawns =
            |part: std::path::Component<'_>| ["payload", "supervisor"].map(OsStr::new).contains(&part.as_os_str());
        found.retain(|group| group.components().any(is_nspawns));
        ControlGroups(found)
    }

    /// Removes those that have come since and that nobody is in: the kernel keeps the others.
    pub(super) fn remove_others(&self) {
        for group in ControlGroups::now().0.iter().filter(|group| !self.0.contains(group)) {
            let _ = fs::remove_dir(group);
        }
    }
}

/// Those below come first.
fn list_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list_below(&entry.path(), found);
            found.push(entry.path());
        }
    }
}

//! Names and reads the files of a control group.

use std::fs;
use std::io;
use std::path::Path;

/// The beginning of the name of each group in which a generation starts.
pub(super) const PREFIX: &str = "reloader-start-";

/// The file with the processes of a group. What is written into it enters the group.
pub(super) const PROCESSES: &str = "cgroup.procs";

/// The file that tells of the last process that leaves a group, by POLLPRI (Documentation/admin-guide/cgroup-v2.rst).
pub(super) const EVENTS: &str = "cgroup.events";

/// The pid of all processes of other pid namespaces.
const UNSEEN: u32 = 0;

/// The processes of a group that this process can see.
pub(super) fn processes(group: &Path) -> io::Result<Vec<u32>> {
    let text = fs::read_to_string(group.join(PROCESSES))?;
    Ok(text.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != UNSEEN).collect())
}

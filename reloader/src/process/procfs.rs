//! Reads `/proc/PID`. For a process that has ended, most functions return `None` or nothing.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The start time of a process in clock ticks since boot (field 22 of proc_pid_stat(5)). Pid and start time together identify a
/// process for good. `None` for a zombie.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = text(pid, "stat").ok()?;
    let fields = after_command(&stat)?;
    // A zombie has ended, and holds nothing any more.
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// The start time of a process on the system clock, which file times use too. `None` if `/proc` does not show it.
pub fn started_at(pid: u32) -> Option<SystemTime> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let up = Duration::from_secs_f64(uptime.split_whitespace().next()?.parse().ok()?);
    // A tick of /proc (USER_HZ) is a hundredth of a second on every supported architecture.
    let age = up.checked_sub(Duration::from_millis(start_time(pid)? * 10))?;
    SystemTime::now().checked_sub(age)
}

/// True if a signal has stopped the process (states T and t of proc_pid_stat(5)): it reacts only to SIGCONT and SIGKILL.
pub fn is_stopped(pid: u32) -> bool {
    let stat = text(pid, "stat").unwrap_or_default();
    after_command(&stat).is_some_and(|fields| matches!(fields.first(), Some(&"T" | &"t")))
}

/// Reads a file of a process. A process name in it can be any bytes: the process chooses it, and the kernel cuts it at 15 bytes.
fn text(pid: u32, file: &str) -> std::io::Result<String> {
    let bytes = fs::read(format!("/proc/{pid}/{file}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// True if this process is the first of its pid namespace. When that process ends, the kernel kills all others.
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = text(pid, "stat").ok()?;
    after_command(&stat)?.get(1)?.parse().ok()
}

/// The processes of a session, by pid and start time (fields 6 and 22 of proc_pid_stat(5)). A session's number is the pid of its
/// first process. The kernel does not reuse that pid while the session has members.
pub fn session_members(session: u32) -> Vec<(u32, u64)> {
    let member = |pid: u32| {
        let stat = text(pid, "stat").ok()?;
        let fields = after_command(&stat)?;
        let is_one = fields.first() != Some(&"Z") && fields.get(3)?.parse() == Ok(session);
        Some((pid, fields.get(19)?.parse().ok()?)).filter(|_| is_one)
    };
    pids().into_iter().filter_map(member).collect()
}

/// The fields after the command name, from the state on. The name may contain spaces and brackets.
fn after_command(stat: &str) -> Option<Vec<&str>> {
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().collect())
}

/// All process ids.
pub fn pids() -> Vec<u32> {
    numbers_in(Path::new("/proc"))
}

/// The threads of a process.
pub(super) fn threads_of(pid: u32) -> Vec<u32> {
    numbers_in(Path::new(&format!("/proc/{pid}/task")))
}

/// The entries of a directory whose names are numbers.
pub(super) fn numbers_in(directory: &Path) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// `root` and all its descendants.
pub fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children(pid));
        next += 1;
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut all = Vec::new();
    for task in tasks {
        match fs::read_to_string(task.path().join("children")) {
            Ok(list) => all.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok())),
            // A kernel without CONFIG_PROC_CHILDREN: compare the parent of every process instead.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && task.path().exists() => {
                return pids().into_iter().filter(|candidate| parent(*candidate) == Some(pid)).collect();
            }
            Err(_) => {}
        }
    }
    all
}

/// The children of this process, including zombies.
pub(super) fn own_children() -> Vec<u32> {
    children(std::process::id())
}

/// The processes of the tree of `root` that run the same program as `root`: HAProxy's master and workers, without the other
/// programs that it runs.
pub fn family(root: u32) -> Vec<u32> {
    let program = executable(root);
    let mut pids = tree(root);
    pids.retain(|pid| *pid == root || executable(*pid) == program);
    pids
}

/// True if the process is known to have ended: its pid is free, or belongs to a zombie or to another process.
///
/// False if `/proc` cannot be read (no free descriptor, no memory).
pub fn has_ended(pid: u32, start_time: u64) -> bool {
    match text(pid, "stat") {
        Ok(stat) => after_command(&stat).is_some_and(|fields| {
            fields.first() == Some(&"Z") || fields.get(19).and_then(|ticks| ticks.parse().ok()) != Some(start_time)
        }),
        Err(error) => {
            error.kind() == std::io::ErrorKind::NotFound
                || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
        }
    }
}

/// The wait status, as of waitpid(2), of a process that has ended and whose parent has not taken it yet (field 52 of
/// proc_pid_stat(5)). It is 0 too if this process may not know it. `None` for any other process.
pub(super) fn zombie_status(pid: u32, start_time: u64) -> Option<i32> {
    let stat = text(pid, "stat").ok()?;
    let fields = after_command(&stat)?;
    let is_one = fields.first() == Some(&"Z") && fields.get(19)?.parse() == Ok(start_time);
    fields.get(49)?.parse().ok().filter(|_| is_one)
}

/// True if `pid` is `ancestor` or a descendant of it.
pub fn is_descendant(pid: u32, ancestor: u32) -> bool {
    let mut current = pid;
    while current > 1 {
        if current == ancestor {
            return true;
        }
        let Some(up) = parent(current) else { return false };
        current = up;
    }
    current == ancestor
}

/// The words of the command line.
pub fn command_line(pid: u32) -> Option<Vec<String>> {
    words_of_command_line(pid, u64::MAX)
}

/// The beginning of the command line, of at most a kilobyte.
pub fn short_command_line(pid: u32) -> Option<Vec<String>> {
    words_of_command_line(pid, 1024)
}

fn words_of_command_line(pid: u32, longest: u64) -> Option<Vec<String>> {
    let mut raw = Vec::new();
    fs::File::open(format!("/proc/{pid}/cmdline")).ok()?.take(longest).read_to_end(&mut raw).ok()?;
    let words = raw.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    Some(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// The value of a variable in the environment with which the process executed its program.
pub fn environment(pid: u32, variable: &str) -> Option<String> {
    let raw = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = raw.split(|byte| *byte == 0).find_map(|entry| {
        let rest = entry.strip_prefix(variable.as_bytes())?;
        rest.strip_prefix(b"=")
    })?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The environment with which the process executed its program, as `NAME=VALUE`.
pub fn whole_environment(pid: u32) -> Vec<String> {
    let raw = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let entries = raw.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    entries.map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
}

/// The address of the bottom of the stack (field 28 of proc_pid_stat(5)). Each execve(2) changes it, as a rule.
pub fn stack_start(pid: u32) -> Option<u64> {
    let stat = text(pid, "stat").ok()?;
    after_command(&stat)?.get(25)?.parse().ok()
}

/// The path of the program file.
pub fn executable(pid: u32) -> Option<PathBuf> {
    let target = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // A binary that was replaced shows as deleted. Its path is still the one from which the process was started.
    match target.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(name) => Some(PathBuf::from(name)),
        None => Some(target),
    }
}

/// The paths of the process's control groups in all hierarchies (cgroups(7): `ID:CONTROLLERS:PATH` in each line).
pub fn control_groups(pid: u32) -> Vec<String> {
    let text = text(pid, "cgroup").unwrap_or_default();
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(str::to_owned).collect()
}

/// The path of this process's control group of version 2.
pub(super) fn unified_control_group() -> Option<String> {
    let text = text(std::process::id(), "cgroup").ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// The effective user id.
pub fn user_of(pid: u32) -> Option<u32> {
    status_line(pid, "Uid:")?.split_whitespace().nth(1)?.parse().ok()
}

/// The supplementary group ids.
pub fn groups_of(pid: u32) -> Vec<u32> {
    status_line(pid, "Groups:")
        .map(|line| line.split_whitespace().filter_map(|gid| gid.parse().ok()).collect())
        .unwrap_or_default()
}

/// The effective capabilities of this process, as a bit mask of the capability numbers of capabilities(7).
pub fn effective_capabilities() -> u64 {
    let own = std::process::id();
    status_line(own, "CapEff:").and_then(|line| u64::from_str_radix(line.trim(), 16).ok()).unwrap_or(0)
}

pub(super) fn status_line(pid: u32, key: &str) -> Option<String> {
    let status = text(pid, "status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_may_contain_brackets_and_spaces() {
        let fields = after_command("12 (a) b (c)) S 7 12 12 0").unwrap();
        assert_eq!(fields[..2], ["S", "7"]);
    }

    #[test]
    fn a_process_name_may_be_any_bytes() {
        let name = std::ffi::CString::new(b"\xff) S 1 \xd0".to_vec()).unwrap();
        let (say, said) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            rustix::thread::set_name(&name).unwrap();
            say.send(rustix::thread::gettid().as_raw_nonzero().get() as u32).unwrap();
            let _ = ended.recv();
        });
        let pid = said.recv().unwrap();
        assert!(start_time(pid).is_some() && parent(pid) == parent(std::process::id()) && user_of(pid).is_some());
        assert!(!has_ended(pid, start_time(pid).unwrap()));
        drop(end);
        thread.join().unwrap();
    }

    #[test]
    fn this_process_descends_from_its_parent() {
        let own = std::process::id();
        assert!(is_descendant(own, parent(own).unwrap()));
        assert!(!is_descendant(parent(own).unwrap(), own));
        assert!(tree(parent(own).unwrap()).contains(&own));
        assert!(start_time(own).unwrap() > 0);
    }
}

//! What `/proc` tells about a process. A process that has ended simply has nothing to tell.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Dir, readlinkat};

/// Which process holds a socket, and as which descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOwner {
    /// The process.
    pub pid: u32,
    /// Its descriptor number.
    pub fd: u32,
}

/// The start time of a process in clock ticks since boot (field 22 of proc_pid_stat(5)): with the pid, a name that is not reused.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = text(pid, "stat").ok()?;
    let fields = after_command(&stat)?;
    // A zombie has ended: nothing it held is left.
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// The same on the clock of the files; `None` where /proc does not tell.
pub fn started_at(pid: u32) -> Option<SystemTime> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let up = Duration::from_secs_f64(uptime.split_whitespace().next()?.parse().ok()?);
    // Ticks of /proc are hundredths of a second on every architecture that we run on (USER_HZ).
    let age = up.checked_sub(Duration::from_millis(start_time(pid)? * 10))?;
    SystemTime::now().checked_sub(age)
}

/// True when a signal has stopped the process (state T of proc_pid_stat(5)): it reacts to nothing but SIGCONT and SIGKILL.
pub fn is_stopped(pid: u32) -> bool {
    let stat = text(pid, "stat").unwrap_or_default();
    after_command(&stat).is_some_and(|fields| matches!(fields.first(), Some(&"T" | &"t")))
}

/// A file of a process. A name in it is of any bytes: it is what the process calls itself, cut off anywhere.
fn text(pid: u32, file: &str) -> std::io::Result<String> {
    let bytes = fs::read(format!("/proc/{pid}/{file}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// True for the first process of its pid namespace: when it ends, the kernel kills all others.
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = text(pid, "stat").ok()?;
    after_command(&stat)?.get(1)?.parse().ok()
}

/// The processes of a session, by pid and start time (fields 6 and 22 of proc_pid_stat(5)). Its number is the pid of its first
/// process, and is not given away as long as it has others.
pub fn session_members(session: u32) -> Vec<(u32, u64)> {
    let member = |pid: u32| {
        let stat = text(pid, "stat").ok()?;
        let fields = after_command(&stat)?;
        let is_one = fields.first() != Some(&"Z") && fields.get(3)?.parse() == Ok(session);
        Some((pid, fields.get(19)?.parse().ok()?)).filter(|_| is_one)
    };
    pids().into_iter().filter_map(member).collect()
}

/// The fields behind the command name, which may itself hold spaces and brackets; the first one is the state.
fn after_command(stat: &str) -> Option<Vec<&str>> {
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().collect())
}

/// All process ids.
pub fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
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
            // A kernel without CONFIG_PROC_CHILDREN: look at everybody's parent instead.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && task.path().exists() => {
                return pids().into_iter().filter(|candidate| parent(*candidate) == Some(pid)).collect();
            }
            Err(_) => {}
        }
    }
    all
}

/// Children of this process, those among them that have ended and were not waited for.
pub(super) fn own_children() -> Vec<u32> {
    children(std::process::id())
}

/// Those of the tree of `root` that run the same program: a HAProxy's master and workers without the programs that it runs.
pub fn family(root: u32) -> Vec<u32> {
    let program = executable(root);
    let mut pids = tree(root);
    pids.retain(|pid| *pid == root || executable(*pid) == program);
    pids
}

/// True when the process is known to have ended: its pid is free, a zombie's, or another process's.
///
/// A failure to look (out of descriptors, out of memory) is no end.
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

/// True when `pid` is `ancestor` or descends from it.
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

/// The sockets that these processes hold, by inode. Where several hold one, the first process wins: a child between
/// fork and exec shows all of its parent's.
pub fn sockets_of(pids: &[u32]) -> HashMap<u64, SocketOwner> {
    let mut sockets = HashMap::new();
    for &pid in pids {
        // A process that ends meanwhile holds nothing: what was read of it so far does no harm.
        let _ = add_sockets_of(pid, &mut sockets);
    }
    sockets
}

/// Links are read relative to the directory: with thousands of listeners the walk from `/` is most of the cost.
fn add_sockets_of(pid: u32, sockets: &mut HashMap<u64, SocketOwner>) -> rustix::io::Result<()> {
    let directory = fs::File::open(format!("/proc/{pid}/fd")).map_err(|_| rustix::io::Errno::SRCH)?;
    let mut buffer = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let Some(fd) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
        let Ok(target) = readlinkat(&directory, entry.file_name(), buffer) else {
            buffer = Vec::new();
            continue;
        };
        if let Some(inode) = inode_in(target.to_bytes()) {
            sockets.entry(inode).or_insert(SocketOwner { pid, fd });
        }
        buffer = target.into_bytes();
    }
    Ok(())
}

/// All processes that hold these sockets.
pub fn holders_of(inodes: &HashSet<u64>) -> HashMap<u64, HashSet<u32>> {
    let mut holders: HashMap<u64, HashSet<u32>> = HashMap::new();
    for pid in pids() {
        for inode in sockets_of(&[pid]).into_keys().filter(|inode| inodes.contains(inode)) {
            holders.entry(inode).or_default().insert(pid);
        }
    }
    holders
}

/// The inode of the socket behind one descriptor of a process.
pub fn socket_at(owner: SocketOwner) -> Option<u64> {
    socket_inode(Path::new(&format!("/proc/{}/fd/{}", owner.pid, owner.fd)))
}

fn socket_inode(link: &Path) -> Option<u64> {
    inode_in(fs::read_link(link).ok()?.as_os_str().as_encoded_bytes())
}

/// `socket:[INODE]`
fn inode_in(target: &[u8]) -> Option<u64> {
    std::str::from_utf8(target).ok()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The words of the command line.
pub fn command_line(pid: u32) -> Option<Vec<String>> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = raw.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    Some(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// What its environment said of this variable when it started.
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

/// Where the stack begins (field 28 of proc_pid_stat(5)): another place with each execve(2), as a rule.
pub fn stack_start(pid: u32) -> Option<u64> {
    let stat = text(pid, "stat").ok()?;
    after_command(&stat)?.get(25)?.parse().ok()
}

/// The program file.
pub fn executable(pid: u32) -> Option<PathBuf> {
    let target = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // An upgraded binary shows as deleted; its name is still the one it was started under.
    match target.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(name) => Some(PathBuf::from(name)),
        None => Some(target),
    }
}

/// The control group paths of all hierarchies (cgroups(7): `ID:CONTROLLERS:PATH` in each line).
pub fn control_groups(pid: u32) -> Vec<String> {
    let text = text(pid, "cgroup").unwrap_or_default();
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(str::to_owned).collect()
}

/// The effective user.
pub fn user_of(pid: u32) -> Option<u32> {
    status_line(pid, "Uid:")?.split_whitespace().nth(1)?.parse().ok()
}

/// The supplementary groups.
pub fn groups_of(pid: u32) -> Vec<u32> {
    status_line(pid, "Groups:")
        .map(|line| line.split_whitespace().filter_map(|gid| gid.parse().ok()).collect())
        .unwrap_or_default()
}

/// This process's effective capabilities as a bit mask (capability numbers of capabilities(7)).
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
    fn the_command_may_hold_brackets_and_spaces() {
        let fields = after_command("12 (a) b (c)) S 7 12 12 0").unwrap();
        assert_eq!(fields[..2], ["S", "7"]);
    }

    #[test]
    fn a_process_may_be_called_anything() {
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
    fn this_process_descends_from_its_parent_and_holds_its_sockets() {
        let own = std::process::id();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = std::os::fd::AsRawFd::as_raw_fd(&listener);
        let inode = socket_at(SocketOwner { pid: own, fd: inode as u32 }).unwrap();
        assert_eq!(sockets_of(&[own])[&inode].pid, own);
        assert!(is_descendant(own, parent(own).unwrap()));
        assert!(!is_descendant(parent(own).unwrap(), own));
        assert!(tree(parent(own).unwrap()).contains(&own));
        assert!(start_time(own).unwrap() > 0);
    }
}

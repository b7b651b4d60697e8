//! Finds the sockets that processes hold, in `/proc`.
//!
//! A thread may have a descriptor table of its own (unshare(2) with CLONE_FILES; HAProxy with `tune.fd.tables per-thread-group`). `/proc/PID/fd`
//! shows the table of the first thread only.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use rustix::fs::{Dir, readlinkat};

use super::procfs::{numbers_in, pids, threads_of};
use crate::sys;

/// A process that holds a socket, and its descriptor of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketOwner {
    /// The process.
    pub pid: u32,
    /// The thread in whose descriptor table it is: that of the whole process if it is `pid`.
    pub thread: u32,
    /// The descriptor number.
    pub fd: u32,
}

impl SocketOwner {
    /// A descriptor in the table of the whole process.
    pub fn of_process(pid: u32, fd: u32) -> SocketOwner {
        SocketOwner { pid, thread: pid, fd }
    }
}

/// Processes, and the sockets that they held when they were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSockets {
    /// The processes.
    pub pids: Vec<u32>,
    /// Their sockets, as by [`sockets_of`].
    pub sockets: HashMap<u64, SocketOwner>,
}

impl ProcessSockets {
    /// Looks at the processes.
    pub fn read(pids: Vec<u32>) -> ProcessSockets {
        let sockets = sockets_of(&pids);
        ProcessSockets { pids, sockets }
    }
}

/// The sockets that these processes hold, by inode. If several hold the same one, the first of `pids` is its owner: a child
/// between fork and exec shows all sockets of its parent.
pub fn sockets_of(pids: &[u32]) -> HashMap<u64, SocketOwner> {
    let mut sockets = HashMap::new();
    for &pid in pids {
        for thread in tables_of(pid) {
            // The thread may end during the read. Then it holds no sockets any more, and the entries that were already read do no harm.
            let _ = add_sockets_of(pid, thread, &mut sockets);
        }
    }
    sockets
}

/// The threads of a process whose descriptor tables differ: the first thread, and each that has a table of its own.
pub(super) fn tables_of(pid: u32) -> Vec<u32> {
    let mut tables = vec![pid];
    for thread in threads_of(pid).into_iter().filter(|thread| *thread != pid) {
        if !tables.iter().any(|known| share_descriptors(*known, thread)) {
            tables.push(thread);
        }
    }
    tables
}

/// Where the kernel does not tell (no CONFIG_KCMP, or no CAP_SYS_PTRACE in a container), all threads count as sharing one table.
fn share_descriptors(one: u32, other: u32) -> bool {
    sys::share_descriptors(one, other).unwrap_or(true)
}

/// Links are read relative to the directory. With thousands of listeners, resolving each path from `/` is most of the cost.
fn add_sockets_of(pid: u32, thread: u32, sockets: &mut HashMap<u64, SocketOwner>) -> rustix::io::Result<()> {
    let directory = table(pid, thread).map_err(|_| rustix::io::Errno::SRCH)?;
    let mut buffer = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let Some(fd) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
        let Ok(target) = readlinkat(&directory, entry.file_name(), buffer) else {
            buffer = Vec::new();
            continue;
        };
        if let Some(inode) = inode_in(target.to_bytes()) {
            sockets.entry(inode).or_insert(SocketOwner { pid, thread, fd });
        }
        buffer = target.into_bytes();
    }
    Ok(())
}

/// Whether `/proc` shows what the descriptors of this process are. False for a process of another user without CAP_SYS_PTRACE: root may list them
/// all the same, and not read one (`proc_fd_access_allowed` of the kernel).
pub fn shows_descriptors(pid: u32) -> bool {
    let is_shown = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok();
    fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|entries| entries.flatten().any(is_shown))
}

/// Reads descriptors of several tables, each of which is opened once: to resolve a path from `/` for each descriptor takes several times as
/// long.
#[derive(Default)]
pub struct DescriptorTables {
    open: HashMap<(u32, u32), Option<fs::File>>,
    buffer: Vec<u8>,
}

impl DescriptorTables {
    /// The inode of the socket behind a descriptor. `None` if it is no socket, or not open.
    pub fn socket_at(&mut self, owner: SocketOwner) -> Option<u64> {
        let SocketOwner { pid, thread, fd } = owner;
        let table = self.open.entry((pid, thread)).or_insert_with(|| table(pid, thread).ok());
        let target = readlinkat(table.as_ref()?, fd.to_string(), std::mem::take(&mut self.buffer)).ok()?;
        let inode = inode_in(target.to_bytes());
        self.buffer = target.into_bytes();
        inode
    }

    /// Whether one of these sockets is still at its owner's descriptor. `owners` may be many, most of which are closed: those are found by one
    /// list of what each table has.
    pub fn has_any(&mut self, owners: &HashMap<u64, SocketOwner>) -> bool {
        let Some((inode, owner)) = owners.iter().next() else { return false };
        if self.socket_at(*owner) == Some(*inode) {
            return true;
        }
        let tables: HashSet<(u32, u32)> = owners.values().map(|owner| (owner.pid, owner.thread)).collect();
        let listed = |(pid, thread): (u32, u32)| {
            let numbers = numbers_in(Path::new(&format!("/proc/{pid}/task/{thread}/fd")));
            numbers.into_iter().map(move |fd| SocketOwner { pid, thread, fd })
        };
        let open: HashSet<SocketOwner> = tables.into_iter().flat_map(listed).collect();
        owners.iter().any(|(inode, owner)| open.contains(owner) && self.socket_at(*owner) == Some(*inode))
    }
}

fn table(pid: u32, thread: u32) -> std::io::Result<fs::File> {
    fs::File::open(format!("/proc/{pid}/task/{thread}/fd"))
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
    socket_inode(Path::new(&format!("/proc/{}/task/{}/fd/{}", owner.pid, owner.thread, owner.fd)))
}

fn socket_inode(link: &Path) -> Option<u64> {
    inode_in(fs::read_link(link).ok()?.as_os_str().as_encoded_bytes())
}

/// The inode in a link target `socket:[INODE]`.
fn inode_in(target: &[u8]) -> Option<u64> {
    std::str::from_utf8(target).ok()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn socket_in_a_table_of_a_thread_is_found() {
        let (tell, told) = channel();
        let (end, ended) = channel::<()>();
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
            tell.send((thread, listener.as_raw_fd() as u32, inode)).unwrap();
            let _ = ended.recv();
        });
        let (tid, fd, inode) = told.recv().unwrap();
        let own = std::process::id();
        let found = sockets_of(&[own]).remove(&inode);
        assert_eq!(found, Some(SocketOwner { pid: own, thread: tid, fd }));
        assert_eq!(socket_at(found.unwrap()), Some(inode));
        assert!(holders_of(&HashSet::from([inode]))[&inode].contains(&own));
        drop(end);
        thread.join().unwrap();
    }

    #[test]
    fn sockets_that_were_closed_or_replaced_are_not_at_their_descriptors() {
        let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let owner = |listener: &TcpListener| SocketOwner::of_process(std::process::id(), listener.as_raw_fd() as u32);
        let inode = |listener: &TcpListener| rustix::fs::fstat(listener).unwrap().st_ino;
        let owners: HashMap<u64, SocketOwner> =
            listeners.iter().map(|listener| (inode(listener), owner(listener))).collect();
        let mut tables = DescriptorTables::default();
        assert!(owners.iter().all(|(inode, owner)| tables.socket_at(*owner) == Some(*inode)));
        // The order of the map decides which one is asked first.
        let other = |inode: &u64| inode + (1 << 40);
        for kept in owners.keys() {
            let seen = owners.iter().map(|(inode, owner)| (if inode == kept { *inode } else { other(inode) }, *owner));
            assert!(DescriptorTables::default().has_any(&seen.collect()));
        }
        let replaced = owners.iter().map(|(inode, owner)| (other(inode), *owner));
        assert!(!DescriptorTables::default().has_any(&replaced.collect()));
        let absent = owners.keys().map(|inode| (*inode, SocketOwner::of_process(std::process::id(), u32::MAX)));
        assert!(!DescriptorTables::default().has_any(&absent.collect()));
    }

    #[test]
    fn threads_that_share_a_table_count_once() {
        let (end, ended) = channel::<()>();
        let thread = std::thread::spawn(move || ended.recv());
        assert_eq!(tables_of(std::process::id())[0], std::process::id());
        drop(end);
        let _ = thread.join().unwrap();
    }
}

//! Finds the sockets that processes hold, in `/proc`.
//!
//! A thread may have a descriptor table of its own (unshare(2) with CLONE_FILES; HAProxy with `tune.fd.tables per-thread-group`). `/proc/PID/fd`
//! shows the table of the first thread only.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use rustix::fs::{Dir, readlinkat};

use super::procfs::{pids, threads_of};
use crate::sys;

/// A process that holds a socket, and its descriptor of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    let directory = fs::File::open(format!("/proc/{pid}/task/{thread}/fd")).map_err(|_| rustix::io::Errno::SRCH)?;
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
    fn threads_that_share_a_table_count_once() {
        let (end, ended) = channel::<()>();
        let thread = std::thread::spawn(move || ended.recv());
        assert_eq!(tables_of(std::process::id())[0], std::process::id());
        drop(end);
        let _ = thread.join().unwrap();
    }
}

//! Detects whether a server waits for connections on a socket that was passed to it.
//!
//! A passed socket listens from the beginning, so that its state says nothing about the server. A waiting server shows in
//! `/proc`: in proc_pid_fdinfo(5) of its epoll sets, and in proc_pid_syscall(5) of threads in accept, poll or select.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::procfs::{numbers_in, threads_of};
use super::sockets::tables_of;
use super::{SocketOwner, socket_at};

/// System calls that wait, by number.
#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const ACCEPT: [u64; 2] = [43, 288];
    pub(super) const RECEIVE: [u64; 3] = [45, 47, 299];
    pub(super) const POLL: [u64; 2] = [7, 271];
    pub(super) const SELECT: [u64; 2] = [23, 270];
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const ACCEPT: [u64; 2] = [202, 242];
    pub(super) const RECEIVE: [u64; 3] = [207, 212, 243];
    pub(super) const POLL: [u64; 1] = [73];
    pub(super) const SELECT: [u64; 1] = [72];
}

/// At most this many entries of a call of poll or select are read.
const MAX_POLLED: u64 = 1 << 16;

/// True if one of `pids` waits for connections on the socket with this inode: through an epoll set, or in accept, poll or select. On a
/// UDP socket it may also wait in recvfrom.
pub fn waits_on(pids: &[u32], inode: u64) -> bool {
    pids.iter().any(|pid| {
        let is_the_socket = |thread: u32, fd: u32| socket_at(SocketOwner { pid: *pid, thread, fd }) == Some(inode);
        let in_a_set = |table: u32| in_epoll_sets(*pid, table).into_iter().any(|fd| is_the_socket(table, fd));
        let in_a_call = |thread: u32| waited_for(*pid, thread).into_iter().any(|fd| is_the_socket(thread, fd));
        tables_of(*pid).into_iter().any(in_a_set) || threads_of(*pid).into_iter().any(in_a_call)
    })
}

/// The descriptors in the epoll sets of a descriptor table, which is that of `thread`.
fn in_epoll_sets(pid: u32, thread: u32) -> Vec<u32> {
    let place = format!("/proc/{pid}/task/{thread}");
    let is_epoll = |fd: &u32| {
        fs::read_link(format!("{place}/fd/{fd}")).is_ok_and(|target| target == Path::new("anon_inode:[eventpoll]"))
    };
    let sets = numbers_in(Path::new(&format!("{place}/fd"))).into_iter().filter(is_epoll);
    let text = sets.filter_map(|fd| fs::read_to_string(format!("{place}/fdinfo/{fd}")).ok());
    text.flat_map(|text| targets(&text)).collect()
}

/// The descriptors of an epoll set: the numbers after `tfd:`.
fn targets(fdinfo: &str) -> Vec<u32> {
    fdinfo.lines().filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next()?.parse().ok()).collect()
}

/// The descriptors for which a thread waits in a system call.
fn waited_for(pid: u32, thread: u32) -> Vec<u32> {
    call_of(pid, thread).flatten().map(|call| call.descriptors(pid)).unwrap_or_default()
}

/// The system call in which a thread sleeps: `Some(None)` for a thread that runs, `None` for one that is gone.
pub(super) fn call_of(pid: u32, thread: u32) -> Option<Option<Call>> {
    let line = fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")).ok()?;
    Some(Call::parse(&line))
}

/// A system call in which a thread sleeps.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    number: u64,
    arguments: [u64; 2],
}

impl Call {
    /// Parses `NUMBER ARGUMENT... SP PC`. `None` for a thread that runs (`running`) or that sleeps outside a system call (`-1`).
    fn parse(line: &str) -> Option<Call> {
        let mut words = line.split_whitespace();
        let number = words.next()?.parse().ok()?;
        let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        Some(Call { number, arguments: [argument()?, argument()?] })
    }

    /// The descriptor, where the call is accept(2).
    pub(super) fn accepts_on(&self) -> Option<u32> {
        number::ACCEPT.contains(&self.number).then_some(self.arguments[0] as u32)
    }

    /// The descriptors that the call waits for.
    fn descriptors(&self, pid: u32) -> Vec<u32> {
        let [first, second] = self.arguments;
        if let Some(fd) = self.accepts_on() {
            return vec![fd];
        }
        // recvfrom(2), recvmsg(2) or recvmmsg(2) of a UDP server.
        if number::RECEIVE.contains(&self.number) {
            return vec![first as u32];
        }
        if number::POLL.contains(&self.number) {
            let entries = memory(pid, first, second.min(MAX_POLLED) as usize * 8);
            return polled(&entries);
        }
        if number::SELECT.contains(&self.number) {
            let bits = memory(pid, second, first.min(MAX_POLLED).div_ceil(8) as usize);
            return selected(&bits, first as u32);
        }
        Vec::new()
    }
}

/// Reads memory of a process. Empty if it cannot be read.
fn memory(pid: u32, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let read = fs::File::open(format!("/proc/{pid}/mem")).and_then(|file| file.read_exact_at(&mut bytes, address));
    read.map_or_else(|_| Vec::new(), |()| bytes)
}

/// The descriptors in an array of `struct pollfd`: each entry has four bytes of descriptor and twice two bytes of events.
fn polled(entries: &[u8]) -> Vec<u32> {
    let descriptor = |entry: &[u8]| i32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]);
    entries.chunks_exact(8).filter_map(|entry| u32::try_from(descriptor(entry)).ok()).collect()
}

/// The descriptors in an fd_set. Its words have the machine's byte order, which is little endian on both supported architectures.
fn selected(bits: &[u8], count: u32) -> Vec<u32> {
    let is_set = |fd: &u32| bits.get((fd / 8) as usize).is_some_and(|byte| byte & (1 << (fd % 8)) != 0);
    (0..count).filter(is_set).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn the_formats_of_proc_are_parsed() {
        let fdinfo = "pos:\t0\nflags:\t02\ntfd:        5 events:       19 data: 5  pos:0 ino:61af sdev:7\n";
        assert_eq!(targets(fdinfo), [5]);
        let call = Call::parse("288 0x3 0x0 0x0 0x80800 0x0 0x0 0x7ffd 0x7f5e").unwrap();
        assert_eq!(call, Call { number: 288, arguments: [3, 0] });
        assert_eq!((Call::parse("running\n"), Call::parse("-1 0x7ffd 0x7f5e\n")), (None, None));
        assert_eq!(polled(&[7, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0]), [7]);
        assert_eq!(selected(&[0b1000_0000, 1], 16), [7, 8]);
    }

    struct Server(Child);

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = (self.0.kill(), self.0.wait());
        }
    }

    /// Starts python3 with our listener as its standard input.
    fn server(listener: &TcpListener, script: &str) -> Server {
        let stdin = Stdio::from(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()));
        let script = format!("import select, socket, time\ns = socket.socket(fileno=0)\n{script}");
        Server(Command::new("/usr/bin/python3").args(["-c", &script]).stdin(stdin).spawn().unwrap())
    }

    #[test]
    fn only_a_server_that_waits_on_the_socket_is_detected() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = SocketOwner::of_process(std::process::id(), listener.as_raw_fd() as u32);
        let inode = socket_at(own).unwrap();
        for script in [
            "s.accept()",
            "p = select.poll(); p.register(s); p.poll()",
            "select.select([s], [], [])",
            "e = select.epoll(); e.register(s); time.sleep(60)",
        ] {
            let server = server(&listener, script);
            while !waits_on(&[server.0.id()], inode) {
                std::thread::yield_now();
            }
        }
        let idle = server(&listener, "time.sleep(60)");
        // The server sleeps in a call that waits for no socket, so it will not accept later.
        let sleeps = || {
            fs::read_to_string(format!("/proc/{}/syscall", idle.0.id())).is_ok_and(|call| !call.starts_with("running"))
        };
        while !sleeps() {
            std::thread::yield_now();
        }
        assert!(!waits_on(&[idle.0.id()], inode));
    }
}

//! Reads from the kernel, without reloader's help, which sockets listen and which processes have them open.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::poll::until;
use crate::process::{Process, cmdline};

const ESTABLISHED: &str = "01";
const SYN_RECV: &str = "03";
const CLOSE_WAIT: &str = "08";
const LISTEN: &str = "0A";

/// Inodes of the TCP sockets that listen on a port, in the calling thread's namespace.
pub fn listening(port: u16) -> BTreeSet<u64> {
    tcp(port, &[LISTEN])
}

/// Connections to a port that this process has accepted and not closed.
pub fn accepted_by(process: Process, port: u16) -> usize {
    let open = tcp(port, &[ESTABLISHED, CLOSE_WAIT]);
    open_sockets(process.pid).intersection(&open).count()
}

/// For each half-open connection of a port, how often its SYN-ACK was sent again.
pub fn half_open(port: u16) -> Vec<u64> {
    let lines = table(port, &[SYN_RECV]);
    lines.iter().filter_map(|line| u64::from_str_radix(line.split_ascii_whitespace().nth(6)?, 16).ok()).collect()
}

/// The users to which the listeners of a port belong.
pub fn listener_users(port: u16) -> BTreeSet<u32> {
    let user = |line: &String| line.split_ascii_whitespace().nth(7)?.parse().ok();
    table(port, &[LISTEN]).iter().filter_map(user).collect()
}

/// The number of connections in the accept queues of a port.
pub fn queued(port: u16) -> u64 {
    let lines = table(port, &[LISTEN]);
    // The field `tx_queue:rx_queue`: for a listener the second number is the length of its accept queue.
    let queue = |line: &String| u64::from_str_radix(line.split_ascii_whitespace().nth(4)?.split_once(':')?.1, 16).ok();
    lines.iter().filter_map(queue).sum()
}

/// A duplicate of a process's listener on this port, by which a test reads and sets what belongs to the socket.
pub fn duplicate_of_listener(process: Process, port: u16) -> OwnedFd {
    let inode = listening(port).into_iter().next().expect("a listener");
    let target = format!("socket:[{inode}]");
    let descriptors = fs::read_dir(format!("/proc/{}/fd", process.pid)).expect("the process's descriptors");
    let number =
        descriptors.flatten().find(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == &*target));
    let number = number.expect("the process has the listener").file_name().to_str().unwrap().parse().unwrap();
    let pidfd = pidfd_open(Pid::from_raw(process.pid).unwrap(), PidfdFlags::empty()).expect("a pidfd");
    pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()).expect("a duplicate")
}

/// Inodes of all sockets that a process has open.
pub fn open_sockets(pid: i32) -> BTreeSet<u64> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    targets.filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
}

/// The processes of the whole machine that have one of these sockets open.
pub fn holders(inodes: &BTreeSet<u64>) -> BTreeSet<i32> {
    holders_with_cmdline(inodes).into_iter().map(|(pid, _)| pid).collect()
}

/// The same processes with their command lines before and after the check: a process may become another program
/// meanwhile.
pub fn holders_with_cmdline(inodes: &BTreeSet<u64>) -> BTreeSet<(i32, [String; 2])> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let holder = |pid| {
        let before = cmdline(pid);
        let holds = !open_sockets(pid).is_disjoint(inodes);
        holds.then(|| (pid, [before, cmdline(pid)]))
    };
    pids.filter_map(holder).collect()
}

/// Whether connections to the address are refused.
pub fn refuses(address: &str) -> bool {
    let address: SocketAddr = address.parse().expect("an address");
    let answer = TcpStream::connect_timeout(&address, Duration::from_secs(5));
    answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Waits until connections to the address are refused.
#[track_caller]
pub fn until_refused(address: &str) {
    until(Duration::from_secs(20), &format!("{address} to be refused"), || refuses(address));
}

fn tcp(port: u16, states: &[&str]) -> BTreeSet<u64> {
    let inode = |line: &String| line.split_ascii_whitespace().nth(9)?.parse().ok();
    table(port, states).iter().filter_map(inode).filter(|inode| *inode > 0).collect()
}

/// `0: 0100007F:1F90 00000000:0000 0A tx:rx tr:when retransmits uid timeout inode`
fn table(port: u16, states: &[&str]) -> Vec<String> {
    let wanted = |line: &&str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let local = fields.get(1).and_then(|address| address.rsplit_once(':'));
        local.is_some_and(|(_, local)| u16::from_str_radix(local, 16) == Ok(port))
            && fields.get(3).is_some_and(|state| states.contains(state))
    };
    let read = |family| fs::read_to_string(format!("/proc/thread-self/net/{family}")).unwrap_or_default();
    [read("tcp"), read("tcp6")].iter().flat_map(|text| text.lines().filter(wanted)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn sockets_of_this_process_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own = Process::with_pid(std::process::id() as i32).unwrap();
        let inodes = listening(address.port());
        assert_eq!((inodes.len(), accepted_by(own, address.port())), (1, 0));
        assert!(holders(&inodes).contains(&own.pid) && !refuses(&address.to_string()));
        let _client = TcpStream::connect(address).unwrap();
        let _accepted = listener.accept().unwrap();
        // The first connection in the queue is that of `refuses`, which has closed it.
        assert_eq!((accepted_by(own, address.port()), queued(address.port())), (1, 1));
        drop(listener);
        assert!(refuses(&address.to_string()));
    }
}

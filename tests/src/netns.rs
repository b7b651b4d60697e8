//! Gives the calling thread its own network namespace.
//!
//! Threads and children that it starts afterwards are in the namespace too. The kernel removes it when the last of them is
//! gone, so there is nothing to clean up, even after a panic.

use std::fs::{self, File};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;

use crate::network;
use crate::process::Process;

/// Ports below this one are for servers. If a client got one of them as its random port, a server's bind would sometimes
/// fail with "Address already in use".
pub const FIRST_CLIENT_PORT: u16 = 16_384;

/// Moves the calling thread into a new namespace with `lo` up.
pub fn enter() {
    assert!(
        geteuid().is_root(),
        "this test needs root to create a network namespace; `cargo xtask test` runs it with sudo"
    );
    unshare(CloneFlags::CLONE_NEWNET).expect("unshare(CLONE_NEWNET): a kernel with namespaces and CAP_SYS_ADMIN");
    ip(&["link", "set", "lo", "up"]);
    prepare_for_clients();
}

/// Moves the calling thread into the network namespace of a process. Clients that the thread starts afterwards run in
/// that namespace.
pub fn enter_that_of(process: Process) {
    let namespace = File::open(format!("/proc/{}/ns/net", process.pid)).expect("the process's network namespace");
    setns(namespace, CloneFlags::CLONE_NEWNET).expect("setns");
    prepare_for_clients();
}

fn prepare_for_clients() {
    sysctl("net/ipv4/ip_local_port_range", &format!("{FIRST_CLIENT_PORT} 65535"));
    sysctl("net/ipv4/tcp_max_syn_backlog", "4096");
}

/// Runs `work` on a thread in this network namespace. A panic of the work continues in the caller.
pub fn run_in<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    on_own_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("setns");
        work()
    })
}

/// Runs `work` in the namespace in which the process was started, which reaches other machines.
pub fn outside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let home = File::open(format!("/proc/{}/ns/net", std::process::id())).expect("the process's namespace");
    on_own_thread(|| {
        // setns fails without root. But without root the thread cannot have left the namespace.
        let _ = setns(home, CloneFlags::CLONE_NEWNET);
        work()
    })
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(work);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `ip` in the calling thread's namespace. Panics if it fails.
pub fn ip(args: &[&str]) {
    network::ip(&args.join(" "));
}

/// Writes a sysctl of the calling thread's namespace.
pub fn sysctl(path: &str, value: &str) {
    let file = Path::new("/proc/sys").join(path);
    fs::write(&file, value).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

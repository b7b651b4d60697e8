//! A network namespace for the calling thread.
//!
//! Threads and children started from it afterwards are in it too, and when the last of them is gone the kernel takes it
//! away: there is nothing to clean up, even after a panic.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;

/// Ports below this one are for servers. A client's own port taken at random from among them would make a server's
/// bind fail now and then with "Address already in use".
pub const FIRST_CLIENT_PORT: u16 = 16_384;

/// Move the calling thread to a fresh namespace with `lo` up.
pub fn enter() {
    assert!(
        geteuid().is_root(),
        "this test needs root, for a network namespace of its own; `cargo xtask test` runs it with sudo"
    );
    unshare(CloneFlags::CLONE_NEWNET).expect("unshare(CLONE_NEWNET): a kernel with namespaces and CAP_SYS_ADMIN");
    ip(&["link", "set", "lo", "up"]);
    sysctl("net/ipv4/ip_local_port_range", &format!("{FIRST_CLIENT_PORT} 65535"));
    sysctl("net/ipv4/tcp_max_syn_backlog", "4096");
}

/// Run `work` in the namespace in which the process was started, where the outside world is.
pub fn outside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let home = File::open(format!("/proc/{}/ns/net", std::process::id())).expect("the process's namespace");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Refused to others than root, who cannot have left it.
            let _ = setns(home, CloneFlags::CLONE_NEWNET);
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Run `ip` in the calling thread's namespace; panics when it fails.
pub fn ip(args: &[&str]) {
    let done = Command::new("ip").args(args).output().expect("running ip (package iproute2)");
    assert!(done.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr));
}

/// Write a sysctl of the calling thread's namespace.
pub fn sysctl(path: &str, value: &str) {
    let file = Path::new("/proc/sys").join(path);
    fs::write(&file, value).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

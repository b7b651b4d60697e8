//! Makes a system call of another process hang, as on a disk that does not answer.

use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::poll::until;
use crate::process::Process;

const LIMIT: Duration = Duration::from_secs(60);

/// Delays each entry into a system call by ptrace (`strace --inject`). The calls go on when it is dropped.
pub struct BlockedCall(Child);

impl BlockedCall {
    /// Blocks the calls in all threads of the process. `calls` are strace's names, with commas between them.
    pub fn in_all_threads(process: Process, calls: &str) -> BlockedCall {
        BlockedCall::start(process, &["-f"], calls)
    }

    /// Blocks the calls in the first thread only, where the daemon has its loop.
    pub fn in_first_thread(process: Process, calls: &str) -> BlockedCall {
        BlockedCall::start(process, &[], calls)
    }

    fn start(process: Process, options: &[&str], calls: &str) -> BlockedCall {
        let mut strace = Command::new("strace");
        strace.args(options).args(["-qq", "-o", "/dev/null"]);
        strace.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:delay_enter=3600s")]);
        let strace = strace.arg("-p").arg(process.pid.to_string()).spawn().expect("strace");
        let traced = || {
            let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        };
        until(LIMIT, "strace to be attached", traced);
        BlockedCall(strace)
    }
}

impl Drop for BlockedCall {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

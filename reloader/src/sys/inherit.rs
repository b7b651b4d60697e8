//! What a child gets from this process: exactly what the process itself was started with.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use rustix::io::FdFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid};

/// SD_LISTEN_FDS_START
const FIRST_GIVEN: RawFd = 3;

/// Environment variables that speak to one process only and must not reach a child.
pub struct NotForChildren;

impl NotForChildren {
    /// systemd's sockets, watchdog and notification address (sd_listen_fds(3), sd_notify(3)).
    pub const VARIABLES: [&'static str; 8] = [
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "LISTEN_PIDFDID",
        "FDSTORE",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    ];
}

/// The limits and the signal mask the daemon was started with.
///
/// The OOM score needs no entry: the daemon never changes its own, so a child inherits the right one.
#[derive(Debug, Clone)]
pub struct Inheritance {
    nofile: Rlimit,
    memlock: Rlimit,
    signals: SigSet,
    descriptors: Vec<RawFd>,
}

/// Returns those that were not so before.
fn close_inherited_on_exec() -> io::Result<Vec<RawFd>> {
    let mut inherited = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if number > 2 {
            // SAFETY: the descriptor is borrowed for two calls. It was open when the directory was read, and this runs
            // before there is a second thread; the directory's own is only closed after the loop.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            if !rustix::io::fcntl_getfd(descriptor)?.contains(FdFlags::CLOEXEC) {
                inherited.push(number);
                rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
            }
        }
    }
    Ok(inherited)
}

/// What the service manager gave to this process, with its names (sd_listen_fds_with_names(3)): each descriptor once, to whoever asks
/// first.
pub fn take_given() -> Vec<(String, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name| std::env::var(name).ok();
    let is_for_us = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    let count: usize = variable("LISTEN_FDS").and_then(|count| count.parse().ok()).unwrap_or(0);
    if !is_for_us || TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let numbered = (FIRST_GIVEN..).take(count).zip(names.split(':'));
    // A number that is not open was not given.
    let given = numbered.filter(|(number, _)| std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok());
    // SAFETY: the descriptor is open, whoever started this process says that it is ours, and it is taken only once.
    given.map(|(number, name)| (name.to_owned(), unsafe { OwnedFd::from_raw_fd(number) })).collect()
}

/// Lifts this process's own limit of descriptors to the hard one: custody needs one for each listener, a hold several for each
/// device.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let hard = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })?)
}

impl Inheritance {
    /// Reads the present limits and signal mask: call it before the daemon changes any of them, and before it opens
    /// anything: what it was started with (systemd's stored sockets) is marked close-on-exec.
    pub fn capture() -> io::Result<Inheritance> {
        let descriptors = close_inherited_on_exec()?;
        let mut signals = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, None, Some(&mut signals))?;
        let (nofile, memlock) = (getrlimit(Resource::Nofile), getrlimit(Resource::Memlock));
        Ok(Inheritance { nofile, memlock, signals, descriptors })
    }

    /// Makes `command` inherit the descriptors that this process was started with, as under any other wrapper.
    pub fn pass_descriptors_to(&self, command: &mut Command) {
        let descriptors = self.descriptors.clone();
        // SAFETY: the closure runs between fork and exec. It makes one system call a descriptor (fcntl), which is
        // async-signal-safe, and neither allocates nor takes a lock. The descriptors were inherited, nobody here closes them.
        unsafe {
            command.pre_exec(move || {
                for number in &descriptors {
                    rustix::io::fcntl_setfd(BorrowedFd::borrow_raw(*number), FdFlags::empty())?;
                }
                Ok(())
            });
        }
    }

    /// Makes `command` start with the limits that this process was started with, as under any other wrapper.
    pub fn pass_limits_to(&self, command: &mut Command) {
        let (nofile, memlock) = (self.nofile, self.memlock);
        // SAFETY: the closure runs between fork and exec. It makes two system calls (setrlimit), which is async-signal-safe,
        // and neither allocates nor takes a lock.
        unsafe {
            command.pre_exec(move || {
                setrlimit(Resource::Nofile, nofile)?;
                setrlimit(Resource::Memlock, memlock)?;
                Ok(())
            });
        }
    }

    /// Makes `command` start with these limits, in a session of its own, without the daemon's service variables.
    ///
    /// HAProxy derives its maxconn from RLIMIT_NOFILE, so the daemon's raised limit must not leak. A session of
    /// its own keeps a Ctrl-C at the daemon's terminal away from the server.
    pub fn apply_to(&self, command: &mut Command) {
        for variable in NotForChildren::VARIABLES {
            command.env_remove(variable);
        }
        self.pass_limits_to(command);
        let signals = self.signals;
        // SAFETY: the closure runs between fork and exec. It makes two system calls (sigprocmask, setsid), both
        // async-signal-safe, and neither allocates nor takes a lock.
        unsafe {
            command.pre_exec(move || {
                sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signals), None)?;
                setsid()?;
                Ok(())
            });
        }
    }
}

/// Makes `command` start in a session of its own: without a terminal that it could ask, and be stopped for asking, and out
/// of reach of a Ctrl-C.
pub fn start_in_own_session(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec. It makes one system call (setsid), which is async-signal-safe, and
    // neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(|| Ok(setsid().map(drop)?));
    }
}

/// Lets this process learn how its children end, whatever its parent made of SIGCHLD: ignored, the kernel would not tell.
pub fn wait_for_children() -> io::Result<()> {
    // SAFETY: the default action installs no code of ours.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Lets this process, and threads that it has later, hear all signals and how its children end, whatever its parent has blocked or ignored:
/// as PID 1 there is nobody else to end it.
pub fn hear_signals() -> io::Result<()> {
    wait_for_children()?;
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Makes `command` start in the network namespace that `namespace` is a file of.
pub fn start_in_network_namespace(command: &mut Command, namespace: OwnedFd) {
    // SAFETY: the closure runs between fork and exec. It makes one system call (setns), which is async-signal-safe, and
    // neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || Ok(nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNET)?));
    }
}

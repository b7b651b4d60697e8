//! Makes children inherit the limits, the signal mask and the descriptors with which this process was started.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use rustix::io::FdFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid};

/// SD_LISTEN_FDS_START of sd_listen_fds(3): the number of the first passed descriptor.
const FIRST_PASSED: RawFd = 3;

/// Environment variables that are meant for one process only, and that no child may inherit.
pub struct NotForChildren;

impl NotForChildren {
    /// systemd's variables for sockets, watchdog and notifications (sd_listen_fds(3), sd_notify(3)).
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

/// The limits, the signal mask and the descriptors with which this process was started.
///
/// The OOM score needs no entry: the daemon never changes its own, so that a child inherits the right one.
#[derive(Debug, Clone)]
pub struct Inheritance {
    nofile: Rlimit,
    memlock: Rlimit,
    signals: SigSet,
    descriptors: Vec<RawFd>,
}

/// Marks all descriptors above 2 close-on-exec. Returns those that were not marked before.
///
/// # Errors
/// `/proc/self/fd` cannot be read, or fcntl(2) fails.
fn close_inherited_on_exec() -> io::Result<Vec<RawFd>> {
    let mut inherited = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if number > 2 {
            // SAFETY: the descriptor is borrowed for two calls. It was open when the directory was read, and this runs before
            // there is a second thread. The directory's own descriptor is closed only after the loop.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            if !rustix::io::fcntl_getfd(descriptor)?.contains(FdFlags::CLOEXEC) {
                inherited.push(number);
                rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
            }
        }
    }
    Ok(inherited)
}

/// Takes the descriptors that the service manager passed to this process, with their names (sd_listen_fds_with_names(3)). Only the
/// first call returns them.
pub fn take_passed_descriptors() -> Vec<(String, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name| std::env::var(name).ok();
    let is_for_us = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    let count: usize = variable("LISTEN_FDS").and_then(|count| count.parse().ok()).unwrap_or(0);
    if !is_for_us || TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let numbered = (FIRST_PASSED..).take(count).zip(names.split(':'));
    // A number that is not open was not passed.
    let passed = numbered.filter(|(number, _)| std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok());
    // SAFETY: the descriptor is open, LISTEN_PID says that it was passed to this process, and TAKEN ensures that it is
    // taken only once.
    passed.map(|(number, name)| (name.to_owned(), unsafe { OwnedFd::from_raw_fd(number) })).collect()
}

/// Raises this process's soft limit of descriptors to the hard limit. Custody needs one descriptor for each listener, and a hold
/// needs several for each device.
///
/// # Errors
/// The error of setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<()> {
    let hard = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })?)
}

impl Inheritance {
    /// Reads limits and signal mask, and marks every inherited descriptor (systemd's stored sockets) close-on-exec. Call it
    /// before the process changes any of them, opens a file or starts a thread.
    ///
    /// # Errors
    /// The descriptors or the signal mask cannot be read.
    pub fn capture() -> io::Result<Inheritance> {
        let descriptors = close_inherited_on_exec()?;
        let mut signals = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, None, Some(&mut signals))?;
        let (nofile, memlock) = (getrlimit(Resource::Nofile), getrlimit(Resource::Memlock));
        Ok(Inheritance { nofile, memlock, signals, descriptors })
    }

    /// Makes `command` inherit the descriptors with which this process was started. A wrapper program is expected to pass
    /// them on.
    pub fn pass_descriptors_to(&self, command: &mut Command) {
        let descriptors = self.descriptors.clone();
        // SAFETY: the closure runs between fork and exec. It makes one system call for each descriptor (fcntl), which is
        // async-signal-safe, and neither allocates nor takes a lock. The descriptors were inherited, and no code here closes them.
        unsafe {
            command.pre_exec(move || {
                for number in &descriptors {
                    rustix::io::fcntl_setfd(BorrowedFd::borrow_raw(*number), FdFlags::empty())?;
                }
                Ok(())
            });
        }
    }

    /// Makes `command` start with the limits with which this process was started. A wrapper program is expected to pass
    /// them on.
    pub fn pass_limits_to(&self, command: &mut Command) {
        let (nofile, memlock) = (self.nofile, self.memlock);
        // SAFETY: the closure runs between fork and exec. It makes two system calls (setrlimit), both async-signal-safe,
        // and neither allocates nor takes a lock.
        unsafe {
            command.pre_exec(move || {
                setrlimit(Resource::Nofile, nofile)?;
                setrlimit(Resource::Memlock, memlock)?;
                Ok(())
            });
        }
    }

    /// Makes `command` start with these limits and this signal mask, in a session of its own, without the daemon's service variables.
    ///
    /// HAProxy derives its maxconn from RLIMIT_NOFILE, so the daemon's raised limit must not reach it. A session of its own
    /// keeps a Ctrl-C at the daemon's terminal away from the server.
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

/// Makes `command` start in a session of its own, without a terminal. A read from a terminal cannot stop it, and a Ctrl-C
/// does not reach it.
pub fn start_in_own_session(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec. It makes one system call (setsid), which is async-signal-safe, and
    // neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(|| Ok(setsid().map(drop)?));
    }
}

/// Makes the kernel kill `command` when the thread that starts it ends, for example because this process is killed (prctl(2),
/// PR_SET_PDEATHSIG).
pub fn end_with_this_thread(command: &mut Command) {
    let own = rustix::process::getpid();
    // SAFETY: the closure runs between fork and exec. It makes two system calls (prctl, getppid), both async-signal-safe, and
    // neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // The parent may have ended before: then no signal comes.
            match rustix::process::getppid() == Some(own) {
                true => Ok(()),
                false => Err(rustix::io::Errno::SRCH.into()),
            }
        });
    }
}

/// Makes `command` enter the control group whose `cgroup.procs` is `entrance`, before its program runs. Where that fails, the program does not
/// run if it `must_enter`.
pub fn start_in_control_group(command: &mut Command, entrance: OwnedFd, must_enter: bool) {
    // SAFETY: the closure runs between fork and exec. It makes one system call (write), which is async-signal-safe, and neither
    // allocates nor takes a lock. "0" is the process that writes (cgroups(7)).
    unsafe {
        command.pre_exec(move || match rustix::io::write(&entrance, b"0") {
            Err(errno) if must_enter => Err(errno.into()),
            _ => Ok(()),
        });
    }
}

/// Makes `command` ignore SIGUSR2 until it sets a handler of its own. A hook may send that signal to every process of the unit
/// (`systemctl kill -s USR2`).
pub fn ignore_sigusr2(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec. It makes one system call (sigaction), which is async-signal-safe, and
    // neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(|| Ok(signal(Signal::SIGUSR2, SigHandler::SigIgn).map(drop)?));
    }
}

/// Sets SIGCHLD to its default action, so that this process can wait for its children. If the parent ignored SIGCHLD, the kernel
/// would discard their statuses (wait(2)).
///
/// # Errors
/// The error of signal(2).
pub fn reset_sigchld() -> io::Result<()> {
    // SAFETY: the default action installs no handler.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Unblocks all signals for this thread and the threads that it starts later, and calls [`reset_sigchld`]. The parent may
/// have blocked or ignored signals. A PID 1 that receives no signal cannot be asked to end.
///
/// # Errors
/// The error of signal(2) or sigprocmask(2).
pub fn unblock_signals() -> io::Result<()> {
    reset_sigchld()?;
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Makes `command` start in the network namespace to which the file `namespace` refers (setns(2)).
pub fn start_in_network_namespace(command: &mut Command, namespace: OwnedFd) {
    // SAFETY: the closure runs between fork and exec. It makes one system call (setns), which is async-signal-safe, and
    // neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || Ok(nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNET)?));
    }
}

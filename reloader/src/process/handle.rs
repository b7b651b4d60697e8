//! Follows a process until it ends: a child of the daemon, or a process that is adopted by pid and start time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open, pidfd_send_signal,
};
use tokio::io::unix::AsyncFd;

use super::ended::Ended;
use super::{SocketOwner, children, start_time};

/// Why a process cannot be started, followed or read.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program could not be started.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// The program file.
        program: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The process ended before it could be followed.
    #[error("process {0} has ended")]
    Gone(u32),
    /// A descriptor could not be duplicated from a process.
    #[error(
        "cannot duplicate descriptor {fd} of process {pid}: {source} (pidfd_getfd needs Linux 5.6 and CAP_SYS_PTRACE)"
    )]
    Duplicate {
        /// The process.
        pid: u32,
        /// Its descriptor.
        fd: u32,
        /// The kernel's error.
        source: io::Error,
    },
    /// The process has closed the descriptor and opened another file with the same number.
    #[error("descriptor {fd} of process {pid} is no longer the same socket")]
    Another {
        /// The process.
        pid: u32,
        /// Its descriptor.
        fd: u32,
    },
}

/// A process that is followed. Clones follow the same process. Dropping a handle does not end the process.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Followed>);

#[derive(Debug)]
struct Followed {
    pid: u32,
    start_time: u64,
    /// `None` on kernels before 5.3. There the process is looked up by pid and start time.
    pidfd: Option<AsyncFd<OwnedFd>>,
    is_child: bool,
    ended: Mutex<Option<(Ended, Instant)>>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        // Taking the status of a child takes it off the list.
        if self.is_child && self.ended.get_mut().is_ok_and(|ended| ended.is_none()) {
            children::disown(self.pid);
        }
    }
}

/// `PIDFD_THREAD` of linux/pidfd.h: the number is that of a thread (Linux 6.9).
const PIDFD_THREAD: u32 = 0o200;

/// How often the state of a process without a pidfd is read (kernels before 5.3).
const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl Handle {
    /// Starts `command` as a child and follows it.
    ///
    /// # Errors
    /// [`ProcessError::Spawn`].
    pub fn spawn(command: &mut Command) -> Result<Handle, ProcessError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = children::spawn(command).map_err(|source| ProcessError::Spawn { program, source })?;
        let pid = child.id();
        // An unreaped child keeps its entry in /proc. A child that is a zombie already needs no start time.
        let start_time = start_time(pid).unwrap_or(0);
        Ok(Handle::follow(pid, start_time, true))
    }

    /// Follows a process that another one started. `None` if no process has this pid and start time (in clock ticks since boot).
    pub fn adopt(pid: u32, start_time: u64) -> Option<Handle> {
        let handle = Handle::follow(pid, start_time, false);
        // An open pidfd never refers to another process. So the start time is compared after the pidfd was opened.
        (super::start_time(pid) == Some(start_time)).then_some(handle)
    }

    fn follow(pid: u32, start_time: u64, is_child: bool) -> Handle {
        let pidfd = raw(pid)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            .and_then(|fd| crate::sys::watch(fd).ok());
        Handle(Arc::new(Followed { pid, start_time, pidfd, is_child, ended: Mutex::new(None) }))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// The start time in clock ticks since boot.
    pub fn start_time(&self) -> u64 {
        self.0.start_time
    }

    /// Waits until the process has ended, and reaps it if it is our child.
    pub async fn ended(&self) -> Ended {
        loop {
            if let Some(ended) = self.try_ended() {
                return ended;
            }
            match &self.0.pidfd {
                Some(pidfd) => match pidfd.readable().await {
                    Ok(mut ready) if self.try_ended().is_none() => ready.clear_ready(),
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
                },
                None => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// How the process ended. `None` while it lives.
    pub fn try_ended(&self) -> Option<Ended> {
        let mut ended = self.0.ended.lock().expect("no panic under this lock");
        if ended.is_none() {
            let now = if self.0.is_child {
                self.try_reap()
            } else {
                Ended::of_stranger(self.0.pid, self.0.start_time, self.pidfd())
            };
            *ended = now.map(|how| (how, Instant::now()));
        }
        ended.map(|(how, _)| how)
    }

    /// When this handle noticed the end.
    pub fn ended_at(&self) -> Option<Instant> {
        self.0.ended.lock().expect("no panic under this lock").map(|(_, at)| at)
    }

    fn try_reap(&self) -> Option<Ended> {
        match children::take_status(self.0.pid) {
            Ok(Some(status)) => Ended::from_wait_status(status.as_raw()),
            Err(Errno::CHILD) => Some(Ended::Unknown),
            _ => None,
        }
    }

    /// Sends a signal. It does nothing if the process has ended.
    pub fn signal(&self, signal: Signal) {
        if self.try_ended().is_some() {
            return;
        }
        send(self.0.pid, self.pidfd(), signal);
    }

    fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.0.pidfd.as_ref().map(|pidfd| pidfd.get_ref().as_fd())
    }

    /// Kills the process group of a child that was started as the leader of one. It does nothing if the child has ended.
    pub(super) fn kill_group(&self) {
        if let Some(group) = raw(self.0.pid).filter(|_| self.try_ended().is_none()) {
            // The kernel keeps the number of the group until the leader's status is taken.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }

    /// Duplicates the socket `inode` from a process that was seen to hold it (Linux 5.6 and later; 6.9 and later where a thread has it in a table
    /// of its own).
    ///
    /// # Errors
    /// [`ProcessError::Duplicate`] if the kernel refuses, [`ProcessError::Another`] if the descriptor is no longer this socket.
    pub fn duplicate(owner: SocketOwner, inode: u64) -> Result<OwnedFd, ProcessError> {
        let SocketOwner { pid, thread, fd } = owner;
        let failed = |source: Errno| ProcessError::Duplicate { pid, fd, source: source.into() };
        let flags = if thread == pid { PidfdFlags::empty() } else { PidfdFlags::from_bits_retain(PIDFD_THREAD) };
        let pidfd = pidfd_open(raw(thread).ok_or(ProcessError::Gone(pid))?, flags).map_err(failed)?;
        let duplicate = pidfd_getfd(pidfd, fd as i32, PidfdGetfdFlags::empty()).map_err(failed)?;
        if fstat(&duplicate).map_err(failed)?.st_ino != inode {
            return Err(ProcessError::Another { pid, fd });
        }
        Ok(duplicate)
    }
}

/// Sends a signal to a process that is known by pid and start time only. It does nothing if the process has ended.
pub fn kill_if_same(pid: u32, start_time: u64, signal: Signal) {
    // This function opens its own pidfd, because a `Handle` needs a tokio runtime.
    let pidfd = raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // An open pidfd never refers to another process. So the start time is compared after the pidfd was opened.
    if super::start_time(pid) == Some(start_time) {
        send(pid, pidfd.as_ref().map(AsFd::as_fd), signal);
    }
}

fn send(pid: u32, pidfd: Option<BorrowedFd<'_>>, signal: Signal) {
    let sent = match pidfd {
        Some(pidfd) => pidfd_send_signal(pidfd, signal),
        // The pid is still this process's: an unreaped child keeps its pid, and the start time of any other was just compared.
        None => raw(pid).map_or(Ok(()), |pid| kill_process(pid, signal)),
    };
    match sent {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => log::error!("cannot send signal {} to process {pid}: {error}", signal.as_raw()),
    }
}

fn raw(pid: u32) -> Option<Pid> {
    Pid::from_raw(pid as i32)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_descriptor_that_is_another_socket_now_is_not_duplicated() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = SocketOwner::of_process(std::process::id(), listener.as_raw_fd() as u32);
        let inode = fstat(&listener).unwrap().st_ino;
        assert_eq!(fstat(Handle::duplicate(owner, inode).unwrap()).unwrap().st_ino, inode);
        assert!(matches!(Handle::duplicate(owner, inode + 1), Err(ProcessError::Another { .. })));
    }
}

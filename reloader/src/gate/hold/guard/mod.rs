//! The guard: a process that releases a hold in its holder's place, the moment the holder dies. This file has the holder's end.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

use super::channel::{self, ToGuard, ToHolder};
use super::own_entry::OwnEntry;
use super::timing::{
    GUARD_EXIT_POLL_INTERVAL, GUARD_REPLACEMENT_TIMEOUT, GUARD_TIMEOUT, GUARD_TIMEOUT_WHILE_HOLDING, RENEWAL_INTERVAL,
};
use crate::gate::contract::{Backend, Handover, HoldStats};
use crate::kernel::clock::{monotonic_ns, timespec};
use crate::process::children;
use crate::sys::Inheritance;

mod ports;
mod process;
mod release;
mod state;
mod succession;

pub(super) use ports::Ports;
pub use process::run;

/// The guard, as its holder has it.
pub(super) struct Guard {
    process: Child,
    channel: OwnedFd,
    /// How long the holder waits for an answer.
    timeout: Duration,
    /// A message that came while the holder waited for another one.
    unread: Option<ToHolder>,
}

impl Guard {
    /// Starts the guard in the network namespace of the calling thread.
    pub(super) fn start(program: &Path, inheritance: &Inheritance) -> io::Result<Guard> {
        let (ours, theirs) = channel::pair()?;
        let mut command = Command::new(program);
        // In a session of its own: a Ctrl-C at the terminal is for the holder.
        inheritance.apply_to(&mut command);
        command.arg("guard").stdin(theirs).stdout(Stdio::null());
        let process = children::spawn(&mut command)?;
        let mut guard = Guard { process, channel: ours, timeout: GUARD_TIMEOUT, unread: None };
        guard.set_timeout(GUARD_TIMEOUT)?;
        Ok(guard)
    }

    /// This guard takes the place of one that has died. SYNs are parked already.
    pub(super) fn is_replacement(&mut self) -> io::Result<()> {
        self.set_timeout(GUARD_REPLACEMENT_TIMEOUT)
    }

    /// SYNs are parked from now on.
    pub(super) fn is_on_duty(&mut self) -> io::Result<()> {
        self.set_timeout(GUARD_TIMEOUT_WHILE_HOLDING)
    }

    fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.timeout = timeout;
        channel::set_send_timeout(self.channel.as_fd(), timeout)
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Tells the guard that the holder lives. A guard that is stopped gets the message later, or not at all.
    pub(super) fn show_life(&self) {
        let _ = channel::send_if_room(self.channel.as_fd(), &ToGuard::Alive);
    }

    /// Tells the guard that the holder delivers from now on.
    pub(super) fn announce_delivery(&self) {
        let _ = channel::send_if_room(self.channel.as_fd(), &ToGuard::Delivers);
    }

    /// Tells the guard which hold it is for. If the holder dies from now on, the guard removes what there is of the hold. Calls
    /// `meanwhile` while it waits.
    pub(super) fn assign(
        mut self,
        entry: &OwnEntry,
        ports: &File,
        old_leaving: &OwnedFd,
        meanwhile: &mut dyn FnMut(),
    ) -> io::Result<Guard> {
        channel::send_assignment(self.channel.as_fd(), entry, ports, old_leaving)?;
        self.wait_for_ack(meanwhile)?;
        Ok(self)
    }

    /// Gives the guard what it needs in order to release the hold, and waits until the guard has received it. Calls `meanwhile` while it waits.
    pub(super) fn hand_over(
        &mut self,
        backend: Backend,
        ends: Instant,
        handover: Handover,
        meanwhile: &mut dyn FnMut(),
    ) -> io::Result<()> {
        let end = monotonic_ns() + ends.saturating_duration_since(Instant::now()).as_nanos() as u64;
        channel::send_handover(self.channel.as_fd(), backend, end, handover)?;
        self.wait_for_ack(meanwhile)
    }

    /// Tells the guard that nothing is parked any more, and waits until it has closed its duplicates.
    pub(super) fn finish_delivery(&mut self) -> io::Result<()> {
        self.set_timeout(GUARD_TIMEOUT)?;
        channel::send(self.channel.as_fd(), &ToGuard::Delivered)?;
        self.wait_for_ack(&mut || ())
    }

    /// Lets the guard end.
    #[expect(clippy::disallowed_methods, reason = "only the thread of a hold has a guard")]
    pub(super) fn dismiss(mut self) {
        let _ = channel::send(self.channel.as_fd(), &ToGuard::Done);
        let end = Instant::now() + GUARD_TIMEOUT;
        while matches!(children::try_wait(&mut self.process), Ok(None)) && Instant::now() < end {
            std::thread::sleep(GUARD_EXIT_POLL_INTERVAL);
        }
    }

    fn wait_for_ack(&mut self, meanwhile: &mut dyn FnMut()) -> io::Result<()> {
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "the guard does not answer");
        loop {
            match self.wait_for_message(meanwhile)?.ok_or_else(silent)? {
                Some(ToHolder::Ack) => return Ok(()),
                // The answer follows.
                Some(ToHolder::Asked) => self.unread = Some(ToHolder::Asked),
                // Nothing follows.
                Some(lifted) => {
                    self.unread = Some(lifted);
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                None => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// Waits for the next message. The outer `None` means that the time is over, for instance because the guard was stopped. The inner
    /// `None` means that the guard has ended.
    fn wait_for_message(&self, meanwhile: &mut dyn FnMut()) -> io::Result<Option<Option<ToHolder>>> {
        let end = Instant::now() + self.timeout;
        loop {
            meanwhile();
            let time = end.saturating_duration_since(Instant::now());
            let mut ready = [PollFd::new(&self.channel, PollFlags::IN)];
            match retry_on_intr(|| poll(&mut ready, Some(&timespec(time.min(RENEWAL_INTERVAL)))))? {
                0 if time.is_zero() => return Ok(None),
                0 => {}
                _ => return self.receive().map(Some),
            }
        }
    }

    /// Whether a message was received and not read yet.
    pub(super) fn has_unread(&self) -> bool {
        self.unread.is_some()
    }

    /// The next message. `None` when the guard has ended.
    pub(super) fn read(&mut self) -> io::Result<Option<ToHolder>> {
        match self.unread.take() {
            Some(message) => Ok(Some(message)),
            None => self.receive(),
        }
    }

    fn receive(&self) -> io::Result<Option<ToHolder>> {
        Ok(channel::receive(self.channel.as_fd())?.map(|(message, _)| message))
    }

    /// What the guard did when it released the hold by itself, with the doubt that results from it. `None` where the guard has not reported a
    /// release.
    pub(super) fn lifted(&mut self) -> Option<(HoldStats, Option<String>)> {
        self.timeout = Duration::ZERO;
        loop {
            let message = match self.unread.take() {
                Some(message) => message,
                // Where the guard ended with a message unread, the first attempt gives an error, and the second one its last message.
                None => self.wait_for_message(&mut || ()).or_else(|_| self.wait_for_message(&mut || ())).ok()???,
            };
            if let ToHolder::Lifted { stats, doubt } = message {
                return Some((stats, doubt));
            }
        }
    }
}

impl Drop for Guard {
    /// Ends the process, and leaves no zombie.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = children::wait(&mut self.process);
    }
}

impl AsFd for Guard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

//! The guard: a small process that releases a hold in its holder's place, the moment the holder dies.

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
use super::worker::RENEWAL_INTERVAL;
use super::{Backend, Handover, HoldStats, LEASE};
use crate::kernel::clock::{monotonic_ns, timespec};
use crate::process::children;
use crate::sys::Inheritance;

mod process;
mod state;
mod succession;

pub use process::run;
pub(super) use succession::Ports;

/// How long a guard may take to answer before anything is held, or when nothing is held any more.
const CHANNEL_TIMEOUT: Duration = Duration::from_secs(5);

/// The same while SYNs are held: nobody hears an order to release meanwhile.
const PATIENCE_WHILE_HELD: Duration = Duration::from_millis(LEASE.as_millis() as u64 / 2);

/// How long it is given to start in the place of another, while SYNs are held.
const PATIENCE_WITH_REPLACEMENT: Duration = Duration::from_secs(2);

/// How often something else is done while a guard is waited for.
const SLICE: Duration = RENEWAL_INTERVAL;

/// The holder's end.
pub(super) struct Guard {
    process: Child,
    channel: OwnedFd,
    patience: Duration,
    /// Said while something else was waited for.
    unheard: Option<ToHolder>,
}

impl Guard {
    /// Starts the guard in the network namespace of the calling thread.
    pub(super) fn start(program: &Path, inheritance: &Inheritance) -> io::Result<Guard> {
        let (ours, theirs) = channel::pair()?;
        let mut command = Command::new(program);
        // In a session of its own: a Ctrl-C at the terminal is for the holder.
        inheritance.apply_to(&mut command);
        command.arg("guard").stdin(theirs).stdout(Stdio::null());
        let mut guard =
            Guard { process: children::spawn(&mut command)?, channel: ours, patience: CHANNEL_TIMEOUT, unheard: None };
        guard.set_patience(CHANNEL_TIMEOUT)?;
        Ok(guard)
    }

    /// SYNs are held already, by the holder of a guard that died.
    pub(super) fn is_replacement(&mut self) -> io::Result<()> {
        self.set_patience(PATIENCE_WITH_REPLACEMENT)
    }

    /// SYNs are held from now on.
    pub(super) fn is_on_duty(&mut self) -> io::Result<()> {
        self.set_patience(PATIENCE_WHILE_HELD)
    }

    fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        self.patience = patience;
        channel::set_patience(self.channel.as_fd(), patience)
    }

    /// The holder lives. A guard that is stopped hears of it later, or not.
    pub(super) fn reassure(&self) {
        let _ = channel::send_if_room(self.channel.as_fd(), &ToGuard::Alive);
    }

    /// The holder delivers from now on.
    pub(super) fn delivers(&self) {
        let _ = channel::send_if_room(self.channel.as_fd(), &ToGuard::Delivers);
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Tells it which hold it is about: should the holder die from now on, it removes what is there of it.
    pub(super) fn in_charge_of(
        mut self,
        claim: &OwnEntry,
        ports: &File,
        leaving: &OwnedFd,
        meanwhile: &mut dyn FnMut(),
    ) -> io::Result<Guard> {
        channel::send_charge(self.channel.as_fd(), claim, ports, leaving)?;
        self.agreed(meanwhile)?;
        Ok(self)
    }

    /// Gives the guard what it needs, and waits until it has it; `meanwhile` is done every now and then.
    pub(super) fn entrust(
        &mut self,
        backend: Backend,
        ends: Instant,
        keepsake: Handover,
        meanwhile: &mut dyn FnMut(),
    ) -> io::Result<()> {
        let end = monotonic_ns() + ends.saturating_duration_since(Instant::now()).as_nanos() as u64;
        channel::send_keepsake(self.channel.as_fd(), backend, end, keepsake)?;
        self.agreed(meanwhile)
    }

    /// Tells it that nothing is parked any more; it lets go of its duplicates.
    pub(super) fn delivered(&mut self) -> io::Result<()> {
        self.set_patience(CHANNEL_TIMEOUT)?;
        channel::send(self.channel.as_fd(), &ToGuard::Delivered)?;
        self.agreed(&mut || ())
    }

    /// Lets it end.
    #[expect(clippy::disallowed_methods, reason = "only the thread of a hold has a guard")]
    pub(super) fn dismiss(mut self) {
        let _ = channel::send(self.channel.as_fd(), &ToGuard::Done);
        let end = Instant::now() + CHANNEL_TIMEOUT;
        while matches!(children::try_wait(&mut self.process), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn agreed(&mut self, meanwhile: &mut dyn FnMut()) -> io::Result<()> {
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "the guard does not answer");
        loop {
            match self.answer(meanwhile)?.ok_or_else(silent)? {
                Some(ToHolder::Ack) => return Ok(()),
                // Its answer follows.
                Some(ToHolder::Asked) => self.unheard = Some(ToHolder::Asked),
                // Nothing follows.
                Some(lifted) => {
                    self.unheard = Some(lifted);
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                None => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// It said something that nobody has heard of yet.
    pub(super) fn has_more_to_say(&self) -> bool {
        self.unheard.is_some()
    }

    /// What it says while there is patience; one that was stopped says nothing.
    fn answer(&self, meanwhile: &mut dyn FnMut()) -> io::Result<Option<Option<ToHolder>>> {
        let end = Instant::now() + self.patience;
        loop {
            meanwhile();
            let time = end.saturating_duration_since(Instant::now());
            let mut ready = [PollFd::new(&self.channel, PollFlags::IN)];
            match retry_on_intr(|| poll(&mut ready, Some(&timespec(time.min(SLICE)))))? {
                0 if time.is_zero() => return Ok(None),
                0 => {}
                _ => return self.next().map(Some),
            }
        }
    }

    /// What it says next; `None` when it has ended.
    pub(super) fn hear(&mut self) -> io::Result<Option<ToHolder>> {
        match self.unheard.take() {
            Some(message) => Ok(Some(message)),
            None => self.next(),
        }
    }

    fn next(&self) -> io::Result<Option<ToHolder>> {
        Ok(channel::receive(self.channel.as_fd())?.map(|(message, _)| message))
    }

    /// What it did when it was asked to release, if nobody has heard of it yet.
    pub(super) fn lifted(&mut self) -> Option<(HoldStats, Option<String>)> {
        self.patience = Duration::ZERO;
        loop {
            let said = match self.unheard.take() {
                Some(said) => said,
                // What it said last is behind the error that it ended with something unread.
                None => self.answer(&mut || ()).or_else(|_| self.answer(&mut || ())).ok()???,
            };
            if let ToHolder::Lifted { figures, trouble } = said {
                return Some((figures, trouble));
            }
        }
    }
}

impl Drop for Guard {
    /// No zombie stays, and no guard that is good for nothing.
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

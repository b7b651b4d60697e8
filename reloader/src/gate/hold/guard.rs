//! The guard: a small process that releases a hold in its holder's place, the moment the holder dies.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::channel::{self, ToGuard, ToHolder};
use super::record::{Claim, Records, only_one_delivers};
use super::{Backend, Figures, HoldError, Keepsake, LEASE, Partly, clean_up, restore};
use crate::sys::Inheritance;

/// How long a guard may take to answer before anything is held, or when nothing is held any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same while SYNs are held: nobody renews the lease meanwhile.
const PATIENCE_WHILE_HELD: Duration = Duration::from_millis(LEASE.as_millis() as u64 / 2);

/// How long a holder may take to begin a release that somebody asked for, before its guard does it.
const PATIENCE_WITH_HOLDER: Duration = LEASE;

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
        Ok(Guard { process: command.spawn()?, channel: ours, patience: PATIENCE, unheard: None })
    }

    /// SYNs are held from now on.
    pub(super) fn is_on_duty(&mut self) {
        self.patience = PATIENCE_WHILE_HELD;
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Gives the guard what it needs, and waits until it has it.
    pub(super) fn entrust(&mut self, claim: &Claim, backend: Backend, keepsake: Keepsake) -> io::Result<()> {
        let record = (claim.path(), claim.file().as_fd());
        channel::send_keepsake(self.channel.as_fd(), claim.id(), backend, record, keepsake)?;
        self.agreed()
    }

    /// Tells it that nothing is parked any more; it lets go of its duplicates.
    pub(super) fn delivered(&mut self) -> io::Result<()> {
        self.patience = PATIENCE;
        channel::send(self.channel.as_fd(), &ToGuard::Delivered)?;
        self.agreed()
    }

    /// Lets it end.
    pub(super) fn dismiss(mut self) {
        let _ = channel::send(self.channel.as_fd(), &ToGuard::Done);
        let end = Instant::now() + PATIENCE;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.bury();
    }

    fn agreed(&mut self) -> io::Result<()> {
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "the guard does not answer");
        loop {
            match self.answer()?.ok_or_else(silent)? {
                Some(ToHolder::Agreed) => return Ok(()),
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
    fn answer(&self) -> io::Result<Option<Option<ToHolder>>> {
        let time = timespec(self.patience);
        let mut ready = [PollFd::new(&self.channel, PollFlags::IN)];
        match retry_on_intr(|| poll(&mut ready, Some(&time)))? {
            0 => Ok(None),
            _ => self.next().map(Some),
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
    pub(super) fn lifted(&mut self) -> Option<(Figures, Option<String>)> {
        match self.unheard.take() {
            Some(ToHolder::Lifted { figures, trouble }) => Some((figures, trouble)),
            _ => None,
        }
    }

    /// Takes note of its end.
    pub(super) fn bury(mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}

impl AsFd for Guard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// What the guard was given.
struct Trust {
    id: u16,
    backend: Backend,
    record: PathBuf,
    /// Keeps the hold on record as living.
    _lock: OwnedFd,
    /// `None` once everything is delivered.
    keepsake: Option<Keepsake>,
}

/// The guard process: its standard input is the channel to the holder. Returns when nothing is left to guard.
///
/// # Errors
/// Where a hold had to be released and something of it could not be delivered or removed.
pub fn run() -> Result<(), HoldError> {
    let channel = io::stdin();
    let signals = catch_signals()?;
    raise_descriptor_limit();
    let mut trust = None;
    let mut descriptors = Vec::new();
    let mut asked = None;
    loop {
        let mut ready = [PollFd::new(&channel, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        let time = asked
            .map(|asked: Instant| timespec((asked + PATIENCE_WITH_HOLDER).saturating_duration_since(Instant::now())));
        retry_on_intr(|| poll(&mut ready, time.as_ref())).map_err(io::Error::from)?;
        let [from_holder, from_others] = ready.map(|fd| !fd.revents().is_empty());
        if from_others {
            let _ = signals.read_signal();
            // One that has nothing in trust yet ends with its holder.
            if trust.is_some() && asked.is_none() && channel::send(channel.as_fd(), &ToHolder::Asked).is_ok() {
                asked = Some(Instant::now());
            }
        }
        if !from_holder {
            match (asked, trust.take()) {
                (Some(asked), Some(trust)) if asked.elapsed() >= PATIENCE_WITH_HOLDER => {
                    return lift_for_holder(trust, channel.as_fd());
                }
                (_, kept) => trust = kept,
            }
            continue;
        }
        match channel::receive(channel.as_fd())? {
            Some((ToGuard::Descriptors, some)) => descriptors.extend(some),
            Some((ToGuard::Keepsake { id, backend, record, manifest }, rest)) => {
                descriptors.extend(rest);
                trust = Some(Trust::new(id, backend, record, manifest, std::mem::take(&mut descriptors))?);
                channel::send(channel.as_fd(), &ToHolder::Agreed)?;
            }
            Some((ToGuard::Delivered, _)) => {
                if let Some(trust) = &mut trust {
                    trust.keepsake = None;
                }
                channel::send(channel.as_fd(), &ToHolder::Agreed)?;
            }
            Some((ToGuard::Done, _)) => return Ok(()),
            None => return trust.map_or(Ok(()), Trust::take_over),
        }
    }
}

/// `reloader release` asks with SIGTERM; what else a terminal or a service manager sends means the holder.
fn catch_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT].into_iter().for_each(|signal| mask.add(signal));
    mask.thread_block()?;
    let mut terminate = SigSet::empty();
    terminate.add(Signal::SIGTERM);
    terminate.thread_block()?;
    Ok(SignalFd::with_flags(&terminate, SfdFlags::SFD_CLOEXEC)?)
}

/// There are two links for each device.
fn raise_descriptor_limit() {
    let hard = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }) {
        log::warn!("the guard could not raise its limit of descriptors: {error}");
    }
}

/// It was stopped, or hangs.
fn lift_for_holder(mut trust: Trust, channel: BorrowedFd<'_>) -> Result<(), HoldError> {
    let (figures, trouble) = match trust.lift() {
        Ok(Partly { done, trouble }) => (done, trouble.map(|error| error.to_string())),
        Err(error) => (Figures::default(), Some(error.to_string())),
    };
    // A holder that is gone needs no answer, but nobody else removes the record then.
    if channel::send(channel, &ToHolder::Lifted { figures, trouble }).is_err() {
        trust.forget();
    }
    Ok(())
}

impl Trust {
    fn new(
        id: u16,
        backend: Backend,
        record: PathBuf,
        manifest: serde_json::Value,
        mut descriptors: Vec<OwnedFd>,
    ) -> io::Result<Trust> {
        if descriptors.is_empty() {
            return Err(io::Error::other("the keepsake came without the record's lock"));
        }
        let lock = descriptors.remove(0);
        Ok(Trust { id, backend, record, _lock: lock, keepsake: Some(Keepsake { manifest, descriptors }) })
    }

    /// The holder is dead.
    fn take_over(mut self) -> Result<(), HoldError> {
        log::warn!("the process that held SYNs has died: its guard releases them");
        let lifted = self.lift();
        self.forget();
        lifted?.whole().map(drop)
    }

    fn lift(&mut self) -> Result<Partly<Figures>, HoldError> {
        // A record that somebody removed is no reason to leave SYNs parked.
        let _alone: Option<File> = only_one_delivers(&self.record).ok();
        let Some(keepsake) = self.keepsake.take() else {
            clean_up::remove_traces_of(self.id, &self.records())?;
            return Ok(Partly { done: Figures::default(), trouble: None });
        };
        let mut gate = restore(self.backend, keepsake)?;
        let delivered = gate.deliver();
        let removed = gate.remove().err();
        Ok(Partly { trouble: delivered.trouble.or(removed), ..delivered })
    }

    fn forget(&self) {
        if let Err(error) = std::fs::remove_file(&self.record) {
            log::debug!("the record {}: {error}", self.record.display());
        }
    }

    fn records(&self) -> Records {
        Records::of(self.record.parent().and_then(Path::parent).unwrap_or(Path::new("/")))
    }
}

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
use rustix::time::{ClockId, clock_gettime};

use super::channel::{self, Entrusted, ToGuard, ToHolder};
use super::claim::{self, Claim};
use super::holder::RENEWAL;
use super::lock::only_one_delivers;
use super::record::Records;
use super::{Backend, Figures, HoldError, Keepsake, LEASE, Partly, clean_up, restore};
use crate::sys::Inheritance;

/// How long a guard may take to answer before anything is held, or when nothing is held any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same while SYNs are held: nobody hears an order to release meanwhile.
const PATIENCE_WHILE_HELD: Duration = Duration::from_millis(LEASE.as_millis() as u64 / 2);

/// How long it is given to start in the place of another, while SYNs are held.
const PATIENCE_WITH_REPLACEMENT: Duration = Duration::from_secs(2);

/// How often something else is done while a guard is waited for.
const SLICE: Duration = RENEWAL;

/// How long a holder may take to deliver, unheard: the gates wait 2 and 5 s for what listeners and the kernel do soon.
const DELIVERY: Duration = Duration::from_secs(10);

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
        let mut guard = Guard { process: command.spawn()?, channel: ours, patience: PATIENCE, unheard: None };
        guard.set_patience(PATIENCE)?;
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

    /// Gives the guard what it needs, and waits until it has it; `meanwhile` is done every now and then.
    pub(super) fn entrust(
        &mut self,
        claim: &Claim,
        backend: Backend,
        ends: Instant,
        keepsake: Keepsake,
        meanwhile: &mut dyn FnMut(),
    ) -> io::Result<()> {
        let end = monotonic() + ends.saturating_duration_since(Instant::now()).as_nanos() as u64;
        channel::send_keepsake(self.channel.as_fd(), claim, backend, end, keepsake)?;
        self.agreed(meanwhile)
    }

    /// Tells it that nothing is parked any more; it lets go of its duplicates.
    pub(super) fn delivered(&mut self) -> io::Result<()> {
        self.set_patience(PATIENCE)?;
        channel::send(self.channel.as_fd(), &ToGuard::Delivered)?;
        self.agreed(&mut || ())
    }

    /// Lets it end.
    pub(super) fn dismiss(mut self) {
        let _ = channel::send(self.channel.as_fd(), &ToGuard::Done);
        let end = Instant::now() + PATIENCE;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn agreed(&mut self, meanwhile: &mut dyn FnMut()) -> io::Result<()> {
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "the guard does not answer");
        loop {
            match self.answer(meanwhile)?.ok_or_else(silent)? {
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
    pub(super) fn lifted(&mut self) -> Option<(Figures, Option<String>)> {
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
        let _ = self.process.wait();
    }
}

/// Nanoseconds of CLOCK_MONOTONIC, which two processes read alike.
fn monotonic() -> u64 {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).map_or(0, |time| time.as_nanos() as u64)
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
    lock: File,
    /// Keeps it living for whoever knows nothing of the record.
    _name: Option<OwnedFd>,
    /// `None` once everything is delivered.
    keepsake: Option<Keepsake>,
    /// When the hold should be over, and a holder that stands still is waited for no longer.
    end: Instant,
    /// When the holder has to be heard of; for ever where the kernel itself ends a hold that nobody renews.
    heartbeat: Option<Instant>,
}

/// Why a guard releases although the holder lives.
#[derive(Clone, Copy)]
enum Cause {
    Asked,
    Silent,
    Over,
}

/// The guard process: its standard input is the channel to the holder. Returns when nothing is left to guard.
///
/// # Errors
/// Where a hold had to be released and something of it could not be delivered or removed.
pub fn run() -> Result<(), HoldError> {
    let channel = io::stdin();
    let signals = catch_signals()?;
    raise_descriptor_limit();
    let mut trust: Option<Trust> = None;
    let mut descriptors = Vec::new();
    let mut asked = None;
    loop {
        let due = trust.as_ref().and_then(|trust| trust.due(asked));
        let mut ready = [PollFd::new(&channel, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        let time = due.map(|(at, _)| timespec(at.saturating_duration_since(Instant::now())));
        retry_on_intr(|| poll(&mut ready, time.as_ref())).map_err(io::Error::from)?;
        let [from_holder, from_others] = ready.map(|fd| !fd.revents().is_empty());
        if from_others {
            let _ = signals.read_signal();
            // One that has nothing in trust yet ends with its holder.
            if trust.is_some() && asked.is_none() && channel::send_if_room(channel.as_fd(), &ToHolder::Asked).is_ok() {
                asked = Some(Instant::now());
            }
        }
        if !from_holder {
            match (due, trust.take()) {
                (Some((at, cause)), Some(trust)) if at <= Instant::now() => {
                    return lift_for_holder(trust, cause, channel.as_fd());
                }
                (_, kept) => trust = kept,
            }
            continue;
        }
        match channel::receive(channel.as_fd())? {
            Some((ToGuard::Descriptors, some)) => descriptors.extend(some),
            Some((ToGuard::Keepsake(entrusted), rest)) => {
                descriptors.extend(rest);
                trust = Some(Trust::new(entrusted, std::mem::take(&mut descriptors))?);
                channel::send(channel.as_fd(), &ToHolder::Agreed)?;
            }
            Some((ToGuard::Alive, _)) => trust.iter_mut().for_each(Trust::holder_lives),
            Some((ToGuard::Delivers, _)) => trust.iter_mut().for_each(Trust::holder_delivers),
            Some((ToGuard::Delivered, _)) => {
                trust.iter_mut().for_each(|trust| trust.keepsake = None);
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
fn lift_for_holder(mut trust: Trust, cause: Cause, channel: BorrowedFd<'_>) -> Result<(), HoldError> {
    let (figures, trouble) = match trust.lift() {
        Ok(Partly { done, trouble }) => (done, trouble),
        Err(error) => (Figures::default(), Some(error)),
    };
    if trouble.is_none()
        && let Err(error) = claim::mark_lifted(&trust.lock)
    {
        log::warn!("the record does not say that the hold was lifted: {error}");
    }
    let trouble = trouble.map(|error| error.to_string()).or_else(|| cause.sentence());
    // A holder that is gone needs no answer, but nobody else removes the record then.
    if channel::send(channel, &ToHolder::Lifted { figures, trouble }).is_err() {
        trust.forget();
    }
    Ok(())
}

impl Cause {
    /// What stands against a proof, where nobody asked for it.
    fn sentence(self) -> Option<String> {
        match self {
            Cause::Asked => None,
            Cause::Silent => Some(format!(
                "the guard lifted the hold, because the process that holds had stood still for {} ms",
                LEASE.as_millis()
            )),
            Cause::Over => Some("the guard lifted the hold, because its longest time was over".into()),
        }
    }
}

impl Trust {
    fn new(entrusted: Entrusted, mut descriptors: Vec<OwnedFd>) -> io::Result<Trust> {
        let Entrusted { id, backend, record, end, named, manifest } = entrusted;
        if descriptors.len() < 1 + usize::from(named) {
            return Err(io::Error::other("the keepsake came without the record's lock"));
        }
        let lock = File::from(descriptors.remove(0));
        let name = named.then(|| descriptors.remove(0));
        let end = Instant::now() + Duration::from_nanos(end.saturating_sub(monotonic())) + LEASE;
        let keepsake = Some(Keepsake { manifest, descriptors });
        let mut trust = Trust { id, backend, record, lock, _name: name, keepsake, end, heartbeat: None };
        // It arms now, on many devices perhaps.
        trust.expect_holder_within(DELIVERY);
        Ok(trust)
    }

    fn holder_lives(&mut self) {
        self.expect_holder_within(LEASE);
    }

    /// A plug has no lease: the guard has to be told that somebody is there.
    fn expect_holder_within(&mut self, time: Duration) {
        self.heartbeat = (self.backend == Backend::Qdisc).then(|| Instant::now() + time);
    }

    fn holder_delivers(&mut self) {
        self.heartbeat = None;
        self.end = Instant::now() + DELIVERY;
    }

    /// When the guard does not wait for the holder any longer, and why. While nothing is parked any more, only who asks hurries.
    fn due(&self, asked: Option<Instant>) -> Option<(Instant, Cause)> {
        let asked = asked.map(|asked| (asked + PATIENCE_WITH_HOLDER, Cause::Asked));
        let parked = self.keepsake.as_ref();
        let silent = parked.and(self.heartbeat).map(|at| (at, Cause::Silent));
        let over = parked.map(|_| (self.end, Cause::Over));
        [asked, silent, over].into_iter().flatten().min_by_key(|(at, _)| *at)
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
        let removed = self.records().alone(|| gate.remove()).err();
        Ok(Partly { trouble: delivered.trouble.or(removed), ..delivered })
    }

    fn forget(&self) {
        if let Err(error) = claim::remove(&self.record) {
            log::debug!("the record {}: {error}", self.record.display());
        }
    }

    fn records(&self) -> Records {
        Records::of(self.record.parent().and_then(Path::parent).unwrap_or(Path::new("/")))
    }
}

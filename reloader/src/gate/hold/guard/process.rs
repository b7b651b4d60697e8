//! The guard process: its standard input is the channel to the holder.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

use super::super::HoldError;
use super::super::channel::{self, ToGuard, ToHolder};
use super::state::{Cause, GuardState};
use crate::kernel::clock::timespec;
use crate::sys::raise_descriptor_limit;

/// Why a guard no longer waits for its holder.
enum End {
    /// Nothing is left to guard.
    Done,
    /// The holder is dead.
    Alone,
    /// The holder lives.
    Due(Cause),
}

/// Returns when nothing is left to guard.
///
/// # Errors
/// Where a hold had to be released and something of it could not be delivered or removed.
pub fn run() -> Result<(), HoldError> {
    let channel = io::stdin();
    let mut trust = None;
    let signals = prepared()?;
    let ended = attend(channel.as_fd(), &signals, &mut trust);
    let Some(trust) = trust else { return Ok(ended.map(drop)?) };
    match ended {
        Ok(End::Done) => Ok(()),
        Ok(End::Alone) => trust.take_over(&signals),
        Ok(End::Due(cause)) => trust.lift_for_holder(cause, channel.as_fd()),
        // With something unread, or before it was answered.
        Err(error) if [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].contains(&error.kind()) => {
            trust.take_over(&signals)
        }
        // The holder finds itself another guard.
        Err(error) => Err(error.into()),
    }
}

fn prepared() -> io::Result<SignalFd> {
    // There are two links for each device.
    if let Err(error) = raise_descriptor_limit() {
        log::warn!("the guard could not raise its limit of descriptors: {error}");
    }
    catch_signals()
}

fn attend(channel: BorrowedFd<'_>, signals: &SignalFd, trust: &mut Option<GuardState>) -> io::Result<End> {
    let mut descriptors = Vec::new();
    loop {
        let due = trust.as_ref().and_then(GuardState::due);
        let mut ready = [PollFd::from_borrowed_fd(channel, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        let time = due.map(|(at, _)| timespec(at.saturating_duration_since(Instant::now())));
        retry_on_intr(|| poll(&mut ready, time.as_ref()))?;
        let [from_holder, from_others] = ready.map(|fd| !fd.revents().is_empty());
        if from_others {
            let _ = signals.read_signal();
            // One that has nothing in trust yet ends with its holder.
            if let Some(trust) = trust.as_mut().filter(|trust| trust.is_entrusted()) {
                trust.note_request(|| drop(channel::send_if_room(channel, &ToHolder::Asked)));
            }
        }
        if from_holder {
            match hear(channel, &mut descriptors, trust)? {
                Some(end) => return Ok(end),
                None => continue,
            }
        }
        if let Some((_, cause)) = due.filter(|(at, _)| *at <= Instant::now()) {
            return Ok(End::Due(cause));
        }
    }
}

/// What the holder says next.
fn hear(
    channel: BorrowedFd<'_>,
    descriptors: &mut Vec<OwnedFd>,
    trust: &mut Option<GuardState>,
) -> io::Result<Option<End>> {
    let Some((message, mut came)) = channel::receive(channel)? else {
        return Ok(Some(End::Alone));
    };
    descriptors.append(&mut came);
    let to_be_answered = match (message, &mut *trust) {
        (ToGuard::Assign(charge), _) => {
            *trust = Some(GuardState::new(charge, std::mem::take(descriptors))?);
            true
        }
        (ToGuard::Done, _) => return Ok(Some(End::Done)),
        (_, None) => return Err(io::Error::other("the holder did not say first which hold it is about")),
        (ToGuard::Descriptors, Some(_)) => false,
        (ToGuard::Handover(entrusted), Some(trust)) => {
            trust.complete(entrusted, std::mem::take(descriptors));
            true
        }
        (ToGuard::Alive, Some(trust)) => {
            trust.holder_lives();
            false
        }
        (ToGuard::Delivers, Some(trust)) => {
            trust.holder_delivers();
            false
        }
        (ToGuard::Delivered, Some(trust)) => {
            trust.holder_delivered();
            true
        }
    };
    if to_be_answered {
        channel::send(channel, &ToHolder::Ack)?;
    }
    Ok(None)
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

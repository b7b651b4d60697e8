//! The guard process. Its standard input is the channel to the holder.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

use super::state::{Cause, GuardState};
use crate::gate::hold::channel::{self, ToGuard, ToHolder};
use crate::gate::hold::error::HoldError;
use crate::kernel::clock::timespec;
use crate::sys::raise_descriptor_limit;

/// Why a guard no longer waits for its holder.
enum End {
    /// Everything is released and removed.
    Done,
    /// The holder is dead.
    HolderDied,
    /// The holder lives, and the guard releases all the same.
    Due(Cause),
}

/// Guards one hold. Returns when its SYNs are released and everything that it put into the kernel is removed.
///
/// # Errors
/// Where the guard had to release the hold, and could not deliver or remove everything.
pub fn run() -> Result<(), HoldError> {
    let channel = io::stdin();
    let mut state = None;
    let signals = prepare()?;
    let ended = attend(channel.as_fd(), &signals, &mut state);
    let Some(state) = state else { return Ok(ended.map(drop)?) };
    match ended {
        Ok(End::Done) => Ok(()),
        Ok(End::HolderDied) => state.take_over(&signals),
        Ok(End::Due(cause)) => state.lift_for_holder(cause, channel.as_fd()),
        // The holder died with a message unread, or before it was answered.
        Err(error) if [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].contains(&error.kind()) => {
            state.take_over(&signals)
        }
        // The holder starts another guard.
        Err(error) => Err(error.into()),
    }
}

fn prepare() -> io::Result<SignalFd> {
    // There are two links for each device.
    if let Err(error) = raise_descriptor_limit() {
        log::warn!("the guard could not raise its limit of descriptors: {error}");
    }
    catch_signals()
}

fn attend(channel: BorrowedFd<'_>, signals: &SignalFd, state: &mut Option<GuardState>) -> io::Result<End> {
    let mut descriptors = Vec::new();
    loop {
        let due = state.as_ref().and_then(GuardState::due);
        let mut ready = [PollFd::from_borrowed_fd(channel, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        let time = due.map(|(at, _)| timespec(at.saturating_duration_since(Instant::now())));
        retry_on_intr(|| poll(&mut ready, time.as_ref()))?;
        let [from_holder, signalled] = ready.map(|fd| !fd.revents().is_empty());
        if signalled {
            let _ = signals.read_signal();
            // A guard without a handover ends with its holder.
            if let Some(state) = state.as_mut().filter(|state| state.has_handover()) {
                state.note_request(|| drop(channel::send_if_room(channel, &ToHolder::Asked)));
            }
        }
        if from_holder {
            match receive(channel, &mut descriptors, state)? {
                Some(end) => return Ok(end),
                None => continue,
            }
        }
        if let Some((_, cause)) = due.filter(|(at, _)| *at <= Instant::now()) {
            return Ok(End::Due(cause));
        }
    }
}

/// Receives and carries out the next message of the holder.
fn receive(
    channel: BorrowedFd<'_>,
    descriptors: &mut Vec<OwnedFd>,
    state: &mut Option<GuardState>,
) -> io::Result<Option<End>> {
    let Some((message, mut received)) = channel::receive(channel)? else {
        return Ok(Some(End::HolderDied));
    };
    descriptors.append(&mut received);
    let wants_ack = match (message, &mut *state) {
        (ToGuard::Assign(assignment), _) => {
            *state = Some(GuardState::new(assignment, std::mem::take(descriptors))?);
            true
        }
        (ToGuard::Done, _) => return Ok(Some(End::Done)),
        (_, None) => return Err(io::Error::other("the holder did not say first which hold the guard is for")),
        (ToGuard::Descriptors, Some(_)) => false,
        (ToGuard::Handover(handover), Some(state)) => {
            state.accept_handover(handover, std::mem::take(descriptors));
            true
        }
        (ToGuard::Alive, Some(state)) => {
            state.holder_lives();
            false
        }
        (ToGuard::Delivers, Some(state)) => {
            state.holder_delivers();
            false
        }
        (ToGuard::Delivered, Some(state)) => {
            state.holder_has_delivered();
            true
        }
    };
    if wants_ack {
        channel::send(channel, &ToHolder::Ack)?;
    }
    Ok(None)
}

/// `reloader release` asks with SIGTERM. All other signals of a terminal or a service manager are for the holder.
fn catch_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    let others = [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];
    others.into_iter().for_each(|signal| mask.add(signal));
    mask.thread_block()?;
    let mut terminate = SigSet::empty();
    terminate.add(Signal::SIGTERM);
    terminate.thread_block()?;
    Ok(SignalFd::with_flags(&terminate, SfdFlags::SFD_CLOEXEC)?)
}

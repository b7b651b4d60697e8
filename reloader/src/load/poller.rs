//! Waits for events of sockets and for a time, by epoll and a timerfd.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// The key of the timer. Sockets never have it.
const TIMER_KEY: u64 = u64::MAX;
const EVENTS_PER_WAIT: usize = 256;

/// Waits for sockets, and for a time that is finer than the milliseconds of epoll_wait: at 8,000/s a connection is due every
/// eighth of a millisecond.
pub(super) struct Poller {
    epoll: Epoll,
    timer: TimerFd,
}

impl Poller {
    pub(super) fn new() -> Result<Poller, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TIMER_KEY))?;
        Ok(Poller { epoll, timer })
    }

    /// Reports events of this socket under `key` until it is closed. A socket that is not yet connected is also watched for
    /// the end of its connect; a connected one would be reported as writable at once, for nothing.
    pub(super) fn watch(&self, socket: &impl AsFd, key: u64, is_connected: bool) -> Result<(), Errno> {
        let mut interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        interest.set(EpollFlags::EPOLLOUT, !is_connected);
        let socket: BorrowedFd<'_> = socket.as_fd();
        self.epoll.add(socket, EpollEvent::new(interest, key))
    }

    /// Waits at most for `longest`, and fills `ready` with the keys of the sockets that have events.
    pub(super) fn wait(&self, longest: Duration, ready: &mut Vec<u64>) {
        let timeout = self.set_timer(longest);
        let mut events = [EpollEvent::empty(); EVENTS_PER_WAIT];
        let count = self.epoll.wait(&mut events, timeout).unwrap_or(0);
        ready.clear();
        ready.extend(events[..count].iter().map(EpollEvent::data).filter(|key| *key != TIMER_KEY));
    }

    /// The answer is the timeout for epoll_wait itself: none where the timer ends the wait.
    fn set_timer(&self, longest: Duration) -> EpollTimeout {
        if longest.is_zero() {
            return EpollTimeout::ZERO;
        }
        let expiration = Expiration::OneShot(TimeSpec::from_duration(longest));
        match self.timer.set(expiration, TimerSetTimeFlags::empty()) {
            Ok(()) => EpollTimeout::NONE,
            Err(_) => EpollTimeout::ZERO,
        }
    }
}

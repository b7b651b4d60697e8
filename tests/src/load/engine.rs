use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use socket2::{Domain, SockAddr};

use super::connection::{Connection, Step};
use super::outcome::{Failure, Outcome, Outcomes};
use super::slots::Slots;
use super::{Progress, Target};

/// Starts between two looks at the sockets: catching up must not starve those that are open.
const BURST: usize = 64;
/// How soon a call to stop is noticed.
const LOOK_UP: Duration = Duration::from_millis(20);
/// Between two attempts on a full unix backlog.
const RETRY: Duration = Duration::from_millis(1);
const NICE: i32 = -10;
const TIMER: u64 = u64::MAX;

pub(super) struct Plan {
    pub(super) targets: Vec<Target>,
    pub(super) rate: u32,
    pub(super) limit: u64,
    pub(super) timeout: Duration,
    pub(super) request: bool,
}

/// One epoll loop.
pub(super) struct Engine {
    plan: Plan,
    addresses: Vec<(Domain, SockAddr)>,
    progress: Arc<Progress>,
    epoll: Epoll,
    timer: TimerFd,
    begin: Instant,
    started: u64,
    open: Slots<Open>,
    /// All have the same timeout: the order of starts is the order of deadlines.
    deadlines: VecDeque<(Instant, u64)>,
    again: Vec<u64>,
    done: Vec<Outcome>,
}

struct Open {
    connection: Connection,
    watched: bool,
    scheduled: Instant,
    lag: Duration,
    target: u32,
}

impl Engine {
    pub(super) fn new(plan: Plan, progress: Arc<Progress>) -> Engine {
        Engine {
            addresses: plan.targets.iter().map(Target::resolved).collect(),
            plan,
            progress,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll_create"),
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)
                .expect("timerfd_create"),
            begin: Instant::now(),
            started: 0,
            open: Slots::default(),
            deadlines: VecDeque::new(),
            again: Vec::new(),
            done: Vec::new(),
        }
    }

    pub(super) fn run(mut self) -> Outcomes {
        // Of this thread alone. Clients have processors of their own; without it a compiler beside the test delays them.
        // Refused to others than root, who then rely on `kept_schedule`.
        let _ = rustix::process::setpriority_process(None, NICE);
        // epoll_wait knows milliseconds; at 8,000/s a connection is due every eighth of one.
        self.epoll
            .add(&self.timer, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TIMER))
            .expect("epoll_ctl");
        self.begin = Instant::now();
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let now = Instant::now();
            self.start_due(now);
            self.expire(now);
            for key in std::mem::take(&mut self.again) {
                self.drive(key);
            }
            if !self.more_to_start() && self.done.len() as u64 == self.started {
                break;
            }
            let timeout = self.arm();
            let count = self.epoll.wait(&mut events, timeout).unwrap_or(0);
            for event in events[..count].iter().filter(|event| event.data() != TIMER) {
                self.drive(event.data());
            }
        }
        self.outcomes()
    }

    fn more_to_start(&self) -> bool {
        self.started < self.plan.limit && !self.progress.stop.load(Relaxed)
    }

    fn due(&self, index: u64) -> Instant {
        self.begin + Duration::from_nanos((u128::from(index) * 1_000_000_000 / u128::from(self.plan.rate)) as u64)
    }

    fn start_due(&mut self, now: Instant) {
        for _ in 0..BURST {
            let scheduled = self.due(self.started);
            if scheduled > now || !self.more_to_start() {
                return;
            }
            self.start(scheduled);
        }
    }

    fn start(&mut self, scheduled: Instant) {
        let target = (self.started % self.addresses.len() as u64) as u32;
        self.started += 1;
        let began = Instant::now();
        let lag = began.saturating_duration_since(scheduled);
        let (domain, address) = &self.addresses[target as usize];
        match Connection::open(*domain, address, self.plan.request) {
            Ok(connection) => {
                let open = Open { connection, watched: false, scheduled, lag, target };
                let key = self.open.put(open);
                self.deadlines.push_back((began + self.plan.timeout, key));
                self.drive(key);
            }
            Err(failure) => self.record(scheduled, lag, target, Err(failure)),
        }
        // Only now: who waits for a start relies on its SYN being out.
        self.progress.started.store(self.started, Relaxed);
    }

    fn drive(&mut self, key: u64) {
        let Some(open) = self.open.get(key) else {
            return;
        };
        match open.connection.drive() {
            Step::Done(result) => self.finish(key, result),
            Step::Again => self.again.push(key),
            Step::Wait if !open.watched => {
                open.watched = true;
                let mut interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
                // Asked of a connected socket it would be answered at once, for nothing.
                interest.set(EpollFlags::EPOLLOUT, !open.connection.is_connected());
                let event = EpollEvent::new(interest, key);
                self.epoll.add(open.connection.socket.as_fd(), event).expect("epoll_ctl");
            }
            Step::Wait => {}
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, key)) = self.deadlines.front() {
            let open = self.open.get(key).is_some();
            if open && deadline > now {
                return;
            }
            self.deadlines.pop_front();
            if open {
                self.finish(key, Err(Failure::Timeout));
            }
        }
    }

    fn finish(&mut self, key: u64, result: Result<(), Failure>) {
        // Dropping the socket closes it and takes it out of the epoll set.
        let open = self.open.take(key).expect("only open connections are finished");
        self.record(open.scheduled, open.lag, open.target, result);
    }

    fn record(&mut self, scheduled: Instant, lag: Duration, target: u32, result: Result<(), Failure>) {
        self.done.push(Outcome { scheduled, lag, latency: scheduled.elapsed(), target, result });
        self.progress.finished.store(self.done.len() as u64, Relaxed);
        if result.is_err() {
            self.progress.failed.fetch_add(1, Relaxed);
        }
    }

    /// Set the timer for what comes next. The answer says whether there is time to wait at all.
    fn arm(&self) -> EpollTimeout {
        let mut wait = LOOK_UP;
        let now = Instant::now();
        if self.more_to_start() {
            wait = wait.min(self.due(self.started).saturating_duration_since(now));
        }
        if let Some((deadline, _)) = self.deadlines.front() {
            wait = wait.min(deadline.saturating_duration_since(now));
        }
        if !self.again.is_empty() {
            wait = wait.min(RETRY);
        }
        if wait.is_zero() {
            return EpollTimeout::ZERO;
        }
        let expiration = Expiration::OneShot(TimeSpec::from_duration(wait));
        self.timer.set(expiration, TimerSetTimeFlags::empty()).expect("timerfd_settime");
        EpollTimeout::NONE
    }

    fn outcomes(self) -> Outcomes {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("getrusage");
        let spent = |time: nix::sys::time::TimeVal| {
            Duration::from_micros(time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64)
        };
        Outcomes {
            all: self.done,
            rate: self.plan.rate,
            wall: self.begin.elapsed(),
            cpu: spent(usage.user_time()) + spent(usage.system_time()),
        }
    }
}

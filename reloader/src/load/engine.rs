use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use socket2::{Domain, SockAddr};

use super::connection::{Connection, Manner, Step};
use super::outcome::{Failure, Outcome, Sink};
use super::slots::Slots;
use super::{Ended, LoadError, Progress, micros};

/// Starts between two looks at the sockets: catching up must not starve those that are open.
const BURST: usize = 64;
/// How soon a call to stop is noticed.
const LOOK_UP: Duration = Duration::from_millis(20);
/// Between two attempts on a full unix backlog.
const RETRY: Duration = Duration::from_millis(1);
const NICE: i32 = -10;
const TIMER: u64 = u64::MAX;

pub(super) struct Plan {
    pub(super) addresses: Vec<(Domain, SockAddr)>,
    pub(super) rate: u32,
    pub(super) limit: u64,
    pub(super) timeout: Duration,
    pub(super) manner: Arc<Manner>,
    /// At most so many connections, each used again; `None`: a connection each.
    pub(super) pool: Option<usize>,
}

/// One epoll loop.
pub(super) struct Engine<S> {
    plan: Plan,
    progress: Arc<Progress>,
    epoll: Epoll,
    timer: TimerFd,
    begin: Instant,
    started: u64,
    finished: u64,
    open: Slots<Open>,
    /// Of what is on a connection. All have the same timeout: the order in which they came there is the order of deadlines.
    deadlines: VecDeque<Deadline>,
    again: Vec<u64>,
    /// Jobs that are due, until a connection is free.
    waiting: VecDeque<Job>,
    /// Connections without a job.
    idle: VecDeque<u64>,
    connections: u64,
    closed_between: u64,
    saw_stop: bool,
    sink: S,
}

struct Open {
    connection: Connection,
    watched: bool,
    /// Whether it is among those to be driven again.
    is_again: bool,
    job: Option<Job>,
}

/// What is due: a connection, or a request on one.
#[derive(Clone, Copy)]
struct Job {
    number: u64,
    scheduled: Instant,
    began: Instant,
    target: u32,
}

struct Deadline {
    at: Instant,
    job: u64,
    key: u64,
}

impl<S: Sink> Engine<S> {
    pub(super) fn new(plan: Plan, progress: Arc<Progress>, sink: S) -> Result<Engine<S>, LoadError> {
        let unavailable = |errno: Errno| LoadError::Unavailable(errno.into());
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(unavailable)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)
            .map_err(unavailable)?;
        // epoll_wait knows milliseconds; at 8,000/s a connection is due every eighth of one.
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TIMER)).map_err(unavailable)?;
        Ok(Engine {
            plan,
            progress,
            epoll,
            timer,
            begin: Instant::now(),
            started: 0,
            finished: 0,
            open: Slots::default(),
            deadlines: VecDeque::new(),
            again: Vec::new(),
            waiting: VecDeque::new(),
            idle: VecDeque::new(),
            connections: 0,
            closed_between: 0,
            saw_stop: false,
            sink,
        })
    }

    pub(super) fn run(mut self) -> Ended<S> {
        // Of this thread alone. Clients have processors of their own; without it a compiler beside the test delays them.
        // Refused to others than root, who then rely on `kept_schedule`.
        let _ = rustix::process::setpriority_process(None, NICE);
        self.begin = Instant::now();
        self.sink.begin(self.begin);
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let now = Instant::now();
            self.start_due(now);
            self.look_at_stop();
            self.expire(now);
            for key in std::mem::take(&mut self.again) {
                if let Some(open) = self.open.get(key) {
                    open.is_again = false;
                }
                self.drive(key);
            }
            self.serve_waiting();
            let is_over = !self.more_to_start() && self.finished == self.started;
            if is_over || self.progress.abandon.load(Relaxed) {
                break;
            }
            let timeout = self.arm();
            let count = self.epoll.wait(&mut events, timeout).unwrap_or(0);
            for event in events[..count].iter().filter(|event| event.data() != TIMER) {
                self.drive(event.data());
            }
            self.serve_waiting();
        }
        self.ended()
    }

    fn more_to_start(&self) -> bool {
        self.started < self.plan.limit && !self.progress.stop.load(Relaxed)
    }

    /// What should have been started by now never will be: a stall at the very end shows nowhere else.
    fn look_at_stop(&mut self) {
        if self.saw_stop || !self.progress.stop.load(Relaxed) {
            return;
        }
        self.saw_stop = true;
        if self.started < self.plan.limit {
            self.progress.late.fetch_max(micros(self.due(self.started).elapsed()), Relaxed);
        }
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
        let target = (self.started % self.plan.addresses.len() as u64) as u32;
        let job = Job { number: self.started, scheduled, began: Instant::now(), target };
        self.started += 1;
        self.progress.late.fetch_max(micros(job.lag()), Relaxed);
        match self.plan.pool {
            None => self.connect(job),
            Some(_) => {
                self.waiting.push_back(job);
                self.serve_waiting();
            }
        }
        // Only now: who waits for a start relies on its SYN being out.
        self.progress.started.store(self.started, Relaxed);
    }

    fn connect(&mut self, job: Job) {
        let (domain, address) = &self.plan.addresses[job.target as usize];
        match Connection::open(*domain, address, Arc::clone(&self.plan.manner)) {
            Ok(connection) => {
                self.connections += 1;
                let key = self.open.put(Open { connection, watched: false, is_again: false, job: None });
                self.give(job, key);
            }
            Err(failure) => self.record(job, None, Err(failure)),
        }
    }

    /// One that waited for a kept connection has its whole time on it: the wait was not the server's.
    fn give(&mut self, job: Job, key: u64) {
        let Some(open) = self.open.get(key) else { return };
        open.job = Some(job);
        let given = if self.plan.pool.is_some() { Instant::now() } else { job.began };
        self.deadlines.push_back(Deadline { at: given + self.plan.timeout, job: job.number, key });
        self.drive(key);
    }

    /// Gives what waits to connections that are free, and opens those that are missing.
    fn serve_waiting(&mut self) {
        let Some(most) = self.plan.pool else { return };
        while let Some(&job) = self.waiting.front() {
            // All that were asked for, though fewer could carry the load: each is one that a reload may close.
            if self.open.len() < most {
                self.waiting.pop_front();
                self.connect(job);
                continue;
            }
            let Some(key) = self.free_connection() else {
                // Looking may have closed some.
                if self.open.len() < most {
                    continue;
                }
                return;
            };
            self.waiting.pop_front();
            if let Some(open) = self.open.get(key) {
                open.connection.again();
            }
            self.give(job, key);
        }
    }

    fn free_connection(&mut self) -> Option<u64> {
        while let Some(key) = self.idle.pop_front() {
            let Some(open) = self.open.get(key) else { continue };
            if open.connection.is_still_open() {
                return Some(key);
            }
            self.close_between(key);
        }
        None
    }

    fn close_between(&mut self, key: u64) {
        self.closed_between += 1;
        drop(self.open.take(key));
    }

    fn drive(&mut self, key: u64) {
        let Some(open) = self.open.get(key) else { return };
        if open.job.is_none() {
            if !open.connection.is_still_open() {
                self.close_between(key);
                self.idle.retain(|idle| *idle != key);
            }
            return;
        }
        match open.connection.drive() {
            Step::Done(result) => self.finish(key, result),
            Step::Again if !open.is_again => {
                open.is_again = true;
                self.again.push(key);
            }
            Step::Wait if !open.watched => {
                open.watched = true;
                let mut interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
                // Asked of a connected socket it would be answered at once, for nothing.
                interest.set(EpollFlags::EPOLLOUT, !open.connection.is_established());
                let event = EpollEvent::new(interest, key);
                if let Err(errno) = self.epoll.add(open.connection.socket.as_fd(), event) {
                    self.finish(key, Err(Failure::Own(errno as i32)));
                }
            }
            Step::Wait | Step::Again => {}
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&Deadline { at, job, key }) = self.deadlines.front() {
            let has_it = self.open.get(key).is_some_and(|open| open.job.is_some_and(|own| own.number == job));
            if has_it && at > now {
                break;
            }
            self.deadlines.pop_front();
            if has_it {
                self.finish(key, Err(Failure::Timeout));
            }
        }
        while let Some(&job) = self.waiting.front()
            && job.began + self.plan.timeout <= now
        {
            self.waiting.pop_front();
            self.record(job, None, Err(Failure::NoConnection));
        }
    }

    fn finish(&mut self, key: u64, result: Result<(), Failure>) {
        let Some(open) = self.open.get(key) else { return };
        let Some(job) = open.job.take() else { return };
        let resent = open.connection.resent();
        if open.connection.can_stay() {
            self.idle.push_back(key);
        } else {
            // Dropping the socket closes it and takes it out of the epoll set.
            drop(self.open.take(key));
        }
        self.record(job, Some(resent), result);
    }

    fn record(&mut self, job: Job, resent: Option<super::connection::Resent>, result: Result<(), Failure>) {
        let resent = resent.unwrap_or_default();
        self.sink.record(&Outcome {
            scheduled: job.scheduled,
            lag: job.lag(),
            latency: job.scheduled.elapsed(),
            target: job.target,
            syn_resent: resent.syn,
            segments_resent: resent.segments,
            result,
        });
        self.finished += 1;
        self.progress.finished.store(self.finished, Relaxed);
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
        let waiting = self.waiting.front().map(|job| job.began + self.plan.timeout);
        for deadline in self.deadlines.front().map(|deadline| deadline.at).into_iter().chain(waiting) {
            wait = wait.min(deadline.saturating_duration_since(now));
        }
        if !self.again.is_empty() {
            wait = wait.min(RETRY);
        }
        if wait.is_zero() {
            return EpollTimeout::ZERO;
        }
        let expiration = Expiration::OneShot(TimeSpec::from_duration(wait));
        match self.timer.set(expiration, TimerSetTimeFlags::empty()) {
            Ok(()) => EpollTimeout::NONE,
            Err(_) => EpollTimeout::ZERO,
        }
    }

    fn ended(self) -> Ended<S> {
        let spent = |time: nix::sys::time::TimeVal| {
            Duration::from_micros(time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64)
        };
        let usage = getrusage(UsageWho::RUSAGE_THREAD).ok();
        Ended {
            sink: self.sink,
            rate: self.plan.rate,
            begin: self.begin,
            wall: self.begin.elapsed(),
            cpu: usage.map_or(Duration::ZERO, |usage| spent(usage.user_time()) + spent(usage.system_time())),
            connections: self.connections,
            closed_between: self.closed_between,
            latest_start: Duration::from_micros(self.progress.late.load(Relaxed)),
            unfinished: self.started - self.finished,
        }
    }
}

impl Job {
    fn lag(&self) -> Duration {
        self.began.saturating_duration_since(self.scheduled)
    }
}

#[cfg(test)]
impl<S: Sink> Engine<S> {
    /// A request that is answered, on a connection that is closed behind it while nothing is wanted of it.
    pub(super) fn one_that_closes(&mut self, listener: &std::net::TcpListener) {
        use std::io::{Read, Write};
        self.start(Instant::now());
        let mut accepted = listener.accept().unwrap().0;
        assert!(accepted.read(&mut [0; 100]).unwrap() > 0);
        accepted.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        self.turn_until(|engine| engine.finished == engine.started);
        drop(accepted);
        let closed = self.closed_between;
        self.turn_until(|engine| engine.closed_between > closed);
    }

    fn turn_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let mut events = [EpollEvent::empty(); 8];
        while !is_so(self) {
            let count = self.epoll.wait(&mut events, EpollTimeout::from(10_000u16)).unwrap();
            assert!(count > 0, "nothing happens");
            events[..count].iter().filter(|event| event.data() != TIMER).for_each(|event| self.drive(event.data()));
        }
        self.expire(Instant::now());
    }

    /// Free connections and deadlines that are still kept.
    pub(super) fn left_behind(&self) -> (usize, usize) {
        (self.idle.len(), self.deadlines.len())
    }
}

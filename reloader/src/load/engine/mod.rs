//! The generator's event loop: starts what is due, drives open connections, and reports each outcome to the sink.

mod schedule;
mod slots;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use socket2::{Domain, SockAddr};

use super::connection::{Advance, Connection, Retransmissions};
use super::error::LoadError;
use super::exchange::ConnectionOptions;
use super::outcome::{Failure, Outcome, Sink};
use super::poller::Poller;
use super::running::{FinishedLoad, Progress};
use crate::units::to_micros;
use schedule::Schedule;
use slots::Slots;

/// The largest number of starts in one turn of the loop. A generator that is late must not starve the open connections.
const MAX_STARTS_PER_TURN: usize = 64;
/// How soon a call to stop is noticed.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The pause before a connection is driven again without an event, such as one with more to read than one turn may read.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);
const GENERATOR_NICE: i32 = -10;

/// The load that the engine generates.
pub(super) struct Plan {
    /// The targets, as socket(2) and connect(2) take them.
    pub(super) addresses: Vec<(Domain, SockAddr)>,
    /// Jobs per second.
    pub(super) rate: u32,
    /// The number of jobs after which the load ends.
    pub(super) limit: u64,
    /// How long a job may take on a connection.
    pub(super) timeout: Duration,
    pub(super) options: Arc<ConnectionOptions>,
    /// At most this many connections, each used again; `None`: a new connection for each job.
    pub(super) pool: Option<usize>,
}

/// One load, driven by one thread.
pub(super) struct Engine<S> {
    plan: Plan,
    progress: Arc<Progress>,
    poller: Poller,
    schedule: Schedule,
    finished: u64,
    open: Slots<OpenConnection>,
    /// The deadlines of the jobs that have a connection. All jobs have the same timeout, so the order in which they got
    /// their connections is the order of the deadlines.
    deadlines: VecDeque<Deadline>,
    /// Connections to drive in the next turn without an event.
    retries: Vec<u64>,
    /// Jobs that are due and wait for a connection of the pool.
    queued_jobs: VecDeque<Job>,
    /// Connections of the pool that have no job.
    idle: VecDeque<u64>,
    connections_made: u64,
    closed_between: u64,
    stop_seen: bool,
    sink: S,
}

struct OpenConnection {
    connection: Connection,
    /// Registered with the poller.
    is_watched: bool,
    /// Its key is among `Engine::retries`.
    is_retried: bool,
    job: Option<Job>,
}

/// A connection to make, or a request to send on a connection of the pool.
#[derive(Clone, Copy)]
struct Job {
    number: u64,
    scheduled: Instant,
    started_at: Instant,
    /// Index into `Plan::addresses`.
    target: u32,
}

impl Job {
    fn lag(&self) -> Duration {
        self.started_at.saturating_duration_since(self.scheduled)
    }
}

struct Deadline {
    at: Instant,
    job: u64,
    connection: u64,
}

impl<S: Sink> Engine<S> {
    pub(super) fn new(plan: Plan, progress: Arc<Progress>, sink: S) -> Result<Engine<S>, LoadError> {
        let poller = Poller::new().map_err(|errno| LoadError::Unavailable(errno.into()))?;
        let schedule = Schedule::new(plan.rate, plan.limit);
        Ok(Engine {
            plan,
            progress,
            poller,
            schedule,
            finished: 0,
            open: Slots::default(),
            deadlines: VecDeque::new(),
            retries: Vec::new(),
            queued_jobs: VecDeque::new(),
            idle: VecDeque::new(),
            connections_made: 0,
            closed_between: 0,
            stop_seen: false,
            sink,
        })
    }

    /// Runs the load to its end.
    pub(super) fn run(mut self) -> FinishedLoad<S> {
        // Raises the priority of this thread alone. Real clients have processors of their own. Without the priority, a
        // compiler that runs at the same time delays the starts. Only root may raise it. `kept_schedule` tells whether
        // the load kept its schedule all the same.
        let _ = rustix::process::setpriority_process(None, GENERATOR_NICE);
        self.schedule.begin = Instant::now();
        self.sink.begin(self.schedule.begin);
        let mut ready = Vec::new();
        loop {
            let now = Instant::now();
            self.start_due_jobs(now);
            self.notice_stop();
            self.expire(now);
            self.drive_retries();
            self.assign_queued_jobs();
            let is_over = self.next_due().is_none() && self.finished == self.schedule.started();
            if is_over || self.progress.abandon.load(Relaxed) {
                break;
            }
            self.poller.wait(self.longest_wait(), &mut ready);
            ready.iter().for_each(|key| self.drive(*key));
            self.assign_queued_jobs();
        }
        self.into_finished()
    }

    /// When the next job is due; `None` where nothing more will be started.
    fn next_due(&self) -> Option<Instant> {
        self.schedule.next_due().filter(|_| !self.progress.stop.load(Relaxed))
    }

    fn start_due_jobs(&mut self, now: Instant) {
        for _ in 0..MAX_STARTS_PER_TURN {
            match self.next_due() {
                Some(scheduled) if scheduled <= now => self.start_job(scheduled),
                _ => return,
            }
        }
    }

    fn start_job(&mut self, scheduled: Instant) {
        let number = self.schedule.take();
        let target = (number % self.plan.addresses.len() as u64) as u32;
        let job = Job { number, scheduled, started_at: Instant::now(), target };
        self.progress.max_start_delay.fetch_max(to_micros(job.lag()), Relaxed);
        match self.plan.pool {
            None => self.connect(job),
            Some(_) => {
                self.queued_jobs.push_back(job);
                self.assign_queued_jobs();
            }
        }
        // The count is published only now: a caller that waits for it relies on the SYN having been sent.
        self.progress.started.store(self.schedule.started(), Relaxed);
    }

    /// Records the delay of a job that was due when the load was told to stop, and that will never start. No other figure
    /// shows a stall at the end of the load.
    fn notice_stop(&mut self) {
        if self.stop_seen || !self.progress.stop.load(Relaxed) {
            return;
        }
        self.stop_seen = true;
        if let Some(due) = self.schedule.next_due() {
            self.progress.max_start_delay.fetch_max(to_micros(due.elapsed()), Relaxed);
        }
    }

    fn connect(&mut self, job: Job) {
        let (domain, address) = &self.plan.addresses[job.target as usize];
        match Connection::open(*domain, address, Arc::clone(&self.plan.options)) {
            Ok(connection) => {
                self.connections_made += 1;
                let open = OpenConnection { connection, is_watched: false, is_retried: false, job: None };
                let key = self.open.insert(open);
                self.assign(job, key);
            }
            Err(failure) => self.record(job, None, Err(failure)),
        }
    }

    /// Gives a job to a connection. A job that waited for a connection of the pool gets the whole timeout on it: the wait was
    /// not the server's fault.
    fn assign(&mut self, job: Job, key: u64) {
        let Some(open) = self.open.get_mut(key) else { return };
        open.job = Some(job);
        let from = if self.plan.pool.is_some() { Instant::now() } else { job.started_at };
        self.deadlines.push_back(Deadline { at: from + self.plan.timeout, job: job.number, connection: key });
        self.drive(key);
    }

    /// Gives queued jobs to idle connections, and opens connections until the pool is full.
    fn assign_queued_jobs(&mut self) {
        let Some(pool) = self.plan.pool else { return };
        while let Some(&job) = self.queued_jobs.front() {
            // Open all connections that were asked for, even if fewer could carry the load: a reload may close each of them.
            if self.open.len() < pool {
                self.queued_jobs.pop_front();
                self.connect(job);
                continue;
            }
            let Some(key) = self.take_idle_connection() else {
                // The search for an idle connection may have closed some connections.
                if self.open.len() < pool {
                    continue;
                }
                return;
            };
            self.queued_jobs.pop_front();
            if let Some(open) = self.open.get_mut(key) {
                open.connection.begin_next_exchange();
            }
            self.assign(job, key);
        }
    }

    fn take_idle_connection(&mut self) -> Option<u64> {
        while let Some(key) = self.idle.pop_front() {
            let Some(open) = self.open.get_mut(key) else { continue };
            if open.connection.is_still_open() {
                return Some(key);
            }
            self.close_between_requests(key);
        }
        None
    }

    fn close_between_requests(&mut self, key: u64) {
        self.closed_between += 1;
        drop(self.open.remove(key));
    }

    fn drive_retries(&mut self) {
        for key in std::mem::take(&mut self.retries) {
            if let Some(open) = self.open.get_mut(key) {
                open.is_retried = false;
            }
            self.drive(key);
        }
    }

    fn drive(&mut self, key: u64) {
        let Some(open) = self.open.get_mut(key) else { return };
        if open.job.is_none() {
            if !open.connection.is_still_open() {
                self.close_between_requests(key);
                self.idle.retain(|idle| *idle != key);
            }
            return;
        }
        match open.connection.drive() {
            Advance::Done(result) => self.finish(key, result),
            Advance::RunAgain if !open.is_retried => {
                open.is_retried = true;
                self.retries.push(key);
            }
            Advance::WaitForSocket if !open.is_watched => {
                open.is_watched = true;
                let is_connected = open.connection.is_established();
                if let Err(errno) = self.poller.watch(open.connection.socket(), key, is_connected) {
                    self.finish(key, Err(Failure::Local(errno as i32)));
                }
            }
            Advance::WaitForSocket | Advance::RunAgain => {}
        }
    }

    /// Fails the jobs whose time is up, on a connection or in the queue.
    fn expire(&mut self, now: Instant) {
        while let Some(&Deadline { at, job, connection }) = self.deadlines.front() {
            let current = self.open.get_mut(connection).and_then(|open| open.job);
            let is_current = current.is_some_and(|current| current.number == job);
            if is_current && at > now {
                break;
            }
            self.deadlines.pop_front();
            if is_current {
                self.finish(connection, Err(Failure::Timeout));
            }
        }
        while let Some(&job) = self.queued_jobs.front()
            && job.started_at + self.plan.timeout <= now
        {
            self.queued_jobs.pop_front();
            self.record(job, None, Err(Failure::NoFreeConnection));
        }
    }

    fn finish(&mut self, key: u64, result: Result<(), Failure>) {
        let Some(open) = self.open.get_mut(key) else { return };
        let Some(job) = open.job.take() else { return };
        let retransmissions = open.connection.take_retransmissions();
        if open.connection.is_reusable() {
            self.idle.push_back(key);
        } else {
            // Dropping the socket closes it and removes it from the epoll set.
            drop(self.open.remove(key));
        }
        self.record(job, Some(retransmissions), result);
    }

    fn record(&mut self, job: Job, retransmissions: Option<Retransmissions>, result: Result<(), Failure>) {
        let retransmissions = retransmissions.unwrap_or_default();
        self.sink.record(&Outcome {
            scheduled: job.scheduled,
            lag: job.lag(),
            latency: job.scheduled.elapsed(),
            target: job.target,
            syn_resent: retransmissions.syn,
            segments_resent: retransmissions.segments,
            result,
        });
        self.finished += 1;
        self.progress.finished.store(self.finished, Relaxed);
        if result.is_err() {
            self.progress.failed.fetch_add(1, Relaxed);
        }
    }

    /// The time until something has to be done, whatever the sockets do.
    fn longest_wait(&self) -> Duration {
        let queue_deadline = self.queued_jobs.front().map(|job| job.started_at + self.plan.timeout);
        let deadline = self.deadlines.front().map(|deadline| deadline.at);
        let now = Instant::now();
        let until = |time: Instant| time.saturating_duration_since(now);
        let known = [self.next_due(), deadline, queue_deadline].into_iter().flatten().map(until);
        let retry = (!self.retries.is_empty()).then_some(RETRY_INTERVAL);
        known.chain(retry).fold(STOP_POLL_INTERVAL, Duration::min)
    }

    fn into_finished(self) -> FinishedLoad<S> {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).ok();
        let cpu = usage.map(|usage| to_duration(usage.user_time()) + to_duration(usage.system_time()));
        FinishedLoad {
            sink: self.sink,
            rate: self.plan.rate,
            begin: self.schedule.begin,
            wall: self.schedule.begin.elapsed(),
            cpu: cpu.unwrap_or_default(),
            connections: self.connections_made,
            closed_between: self.closed_between,
            max_start_delay: Duration::from_micros(self.progress.max_start_delay.load(Relaxed)),
            unfinished: self.schedule.started() - self.finished,
        }
    }
}

fn to_duration(time: TimeVal) -> Duration {
    Duration::from_micros(time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64)
}

#[cfg(test)]
mod tests;

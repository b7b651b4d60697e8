//! An open-loop load generator.
//!
//! A connection starts when its time comes, whether or not earlier ones have finished, and its latency counts from that
//! time. A closed loop would wait out the very stall it is there to measure, and report one slow request instead of
//! thousands.
//!
//! It runs on a thread of its own, which stays in the network namespace of the thread that starts it. What is kept of each
//! connection that has ended is the [`Sink`]'s decision: the generator itself keeps nothing.

mod connection;
mod engine;
mod http;
mod outcome;
mod slots;
mod summary;
mod target;
mod tls;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use connection::Manner;
use engine::{Engine, Plan};

pub use connection::Exchange;
pub use outcome::{Failure, Outcome, SLOW, Sink, TlsTrouble};
pub use summary::{LATE_MAX, Summary};
pub(crate) use summary::{histogram, kept_schedule, micros};
pub use target::Target;
pub use tls::Tls;

/// Why there is no load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It goes nowhere.
    #[error("a load needs a target")]
    NoTarget,
    /// It never begins.
    #[error("a rate of 0 would make no connection: give at least 1 a second")]
    NoRate,
    /// It keeps no connection.
    #[error("keep at least one connection")]
    NoConnection,
    /// A target is no address.
    #[error("{0} is no address to connect to: write ADDR:PORT, [ADDR]:PORT for IPv6, or unix@/PATH")]
    NoAddress(String),
    /// A unix socket's address does not fit into the kernel's.
    #[error("{0} is too long for a unix socket: 107 bytes at most")]
    TooLong(String),
    /// TLS cannot ask for this host.
    #[error("{0} is no host's name that TLS could ask for")]
    NoHostName(String),
    /// The kernel refuses what a load needs.
    #[error("cannot start the load: {0}")]
    Unavailable(io::Error),
    /// A defect of ours.
    #[error("the load ended by a defect in it; please report what stands above")]
    Panicked,
}

/// A load that has not been started.
#[derive(Clone)]
pub struct Load {
    targets: Vec<Target>,
    rate: u32,
    limit: u64,
    timeout: Duration,
    exchange: Exchange,
    tls: Option<Tls>,
    pool: Option<usize>,
}

impl Load {
    /// New connections go to each target in turn.
    pub fn to(targets: Vec<Target>) -> Load {
        Load {
            targets,
            rate: 1000,
            limit: u64::MAX,
            timeout: Duration::from_secs(10),
            exchange: Exchange::Http(b"GET / HTTP/1.0\r\n\r\n"[..].into()),
            tls: None,
            pool: None,
        }
    }

    /// New connections per second, or requests where connections are kept; 1,000 unless told.
    pub fn rate(mut self, per_second: u32) -> Load {
        self.rate = per_second;
        self
    }

    /// Start no more than this many; without it the load goes on until `stop`.
    pub fn connections(mut self, limit: u64) -> Load {
        self.limit = limit;
        self
    }

    /// How long a connection or request may take from its start; 10 s unless told. One that waits for a kept connection may
    /// wait as long for that, and then takes its own time on it.
    pub fn timeout(mut self, timeout: Duration) -> Load {
        self.timeout = timeout;
        self
    }

    /// What is done on a connection; `GET / HTTP/1.0` unless told.
    pub fn exchange(mut self, exchange: Exchange) -> Load {
        self.exchange = exchange;
        self
    }

    /// Speak TLS.
    pub fn tls(mut self, tls: Tls) -> Load {
        self.tls = Some(tls);
        self
    }

    /// Use at most so many connections, and each again and again.
    pub fn keep_alive(mut self, connections: usize) -> Load {
        self.pool = Some(connections);
        self
    }

    /// Start the thread. The first connection is due at once.
    ///
    /// # Errors
    /// A sentence: what was asked for makes no load, or the kernel refuses it.
    pub fn start<S: Sink>(self, sink: S) -> Result<Running<S>, LoadError> {
        if self.targets.is_empty() {
            return Err(LoadError::NoTarget);
        }
        if self.rate == 0 {
            return Err(LoadError::NoRate);
        }
        if self.pool == Some(0) {
            return Err(LoadError::NoConnection);
        }
        let plan = Plan {
            addresses: self.targets.iter().map(Target::resolved).collect::<Result<_, _>>()?,
            rate: self.rate,
            limit: self.limit,
            timeout: self.timeout,
            manner: Arc::new(Manner { exchange: self.exchange, tls: self.tls, keep: self.pool.is_some() }),
            pool: self.pool,
        };
        let progress = Arc::new(Progress::default());
        let engine = Engine::new(plan, Arc::clone(&progress), sink)?;
        let spawned = std::thread::Builder::new().name("load".into()).spawn(move || engine.run());
        Ok(Running { progress, thread: Some(spawned.map_err(LoadError::Unavailable)?) })
    }
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    abandon: AtomicBool,
    started: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    late: AtomicU64,
}

/// A load under way. Dropped without `stop`, it starts nothing more and closes what is open.
pub struct Running<S> {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<Ended<S>>>,
}

/// A load that is over.
pub struct Ended<S> {
    /// What the sink made of the outcomes.
    pub sink: S,
    /// Per second, as asked for.
    pub rate: u32,
    /// When the first was due.
    pub begin: Instant,
    /// From then to the last end.
    pub wall: Duration,
    /// Processor time that the generator itself took.
    pub cpu: Duration,
    /// Connections made, which with kept ones are fewer than requests.
    pub connections: u64,
    /// Kept connections that the server closed between two requests.
    pub closed_between: u64,
    /// By how much the latest start was late, or what should have been started when the end was noticed.
    pub latest_start: Duration,
    /// Started, but abandoned before their end: nothing is known of them.
    pub unfinished: u64,
}

impl<S> Running<S> {
    /// Started so far.
    pub fn started(&self) -> u64 {
        self.progress.started.load(Relaxed)
    }

    /// Ended so far, well or badly.
    pub fn finished(&self) -> u64 {
        self.progress.finished.load(Relaxed)
    }

    /// Failed so far.
    pub fn failed(&self) -> u64 {
        self.progress.failed.load(Relaxed)
    }

    /// By how much the latest start so far was late.
    pub fn latest_start(&self) -> Duration {
        Duration::from_micros(self.progress.late.load(Relaxed))
    }

    /// Start nothing more, without waiting for what is open.
    pub fn cease(&self) {
        self.progress.stop.store(true, Relaxed);
    }

    /// Start nothing more, and close what is open: what would have become of it is not recorded.
    pub fn abandon(&self) {
        self.progress.stop.store(true, Relaxed);
        self.progress.abandon.store(true, Relaxed);
    }

    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Start nothing more, wait for what is open (each at most its timeout).
    ///
    /// # Errors
    /// [`LoadError::Panicked`].
    pub fn stop(self) -> Result<Ended<S>, LoadError> {
        self.progress.stop.store(true, Relaxed);
        self.wait()
    }

    /// Wait for a load that ends by itself.
    ///
    /// # Errors
    /// [`LoadError::Panicked`].
    pub fn wait(mut self) -> Result<Ended<S>, LoadError> {
        let thread = self.thread.take().ok_or(LoadError::Panicked)?;
        thread.join().map_err(|_| LoadError::Panicked)
    }
}

impl<S> Drop for Running<S> {
    fn drop(&mut self) {
        self.abandon();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;

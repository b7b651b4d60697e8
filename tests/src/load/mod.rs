//! An open-loop load generator.
//!
//! A connection starts when its time comes, whether or not earlier ones have finished, and its latency counts from that
//! time. A closed loop would wait out the very stall it is there to measure, and report one slow request instead of
//! thousands.
//!
//! It runs on a thread of its own, which stays in the network namespace of the thread that starts it.

mod connection;
mod engine;
mod outcome;
mod slots;
mod summary;
mod target;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::poll::until;
use engine::{Engine, Plan};

pub use outcome::{Failure, Outcome, Outcomes, Window};
pub use summary::Summary;
pub use target::Target;

/// A load that has not been started.
pub struct Load {
    plan: Plan,
}

impl Load {
    /// New connections go to each target in turn.
    pub fn to<T: Into<Target>>(targets: impl IntoIterator<Item = T>) -> Load {
        let targets: Vec<Target> = targets.into_iter().map(Into::into).collect();
        assert!(!targets.is_empty(), "a load needs a target");
        Load { plan: Plan { targets, rate: 1000, limit: u64::MAX, timeout: Duration::from_secs(10), request: true } }
    }

    /// New connections per second; 1,000 unless told, and never more than `guest::rate` allows.
    pub fn rate(mut self, per_second: u32) -> Load {
        assert!(per_second > 0, "a load needs a rate");
        self.plan.rate = per_second;
        self
    }

    /// Start no more than this many; without it the load goes on until `stop`.
    pub fn connections(mut self, limit: u64) -> Load {
        self.plan.limit = limit;
        self
    }

    /// How long a connection may take from its start; 10 s unless told.
    pub fn timeout(mut self, timeout: Duration) -> Load {
        self.plan.timeout = timeout;
        self
    }

    /// Send nothing, only read until the server closes.
    pub fn raw(mut self) -> Load {
        self.plan.request = false;
        self
    }

    /// Start the thread. The first connection is due at once.
    pub fn start(mut self) -> Running {
        self.plan.rate = crate::guest::rate(self.plan.rate);
        self.started()
    }

    /// As fast as the machine can start them: what it carries is not known yet.
    pub(crate) fn all_at_once(mut self) -> Outcomes {
        self.plan.rate = 1_000_000;
        self.started().wait()
    }

    fn started(self) -> Running {
        crate::limits::raise_open_files();
        let shared = Arc::new(Progress::default());
        let engine = Engine::new(self.plan, Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("load".into())
            .spawn(move || engine.run())
            .expect("starting the load thread");
        Running { shared, thread: Some(thread) }
    }

    /// Start, and wait for every connection of a load that has a limit.
    pub fn run(self) -> Outcomes {
        assert!(self.plan.limit < u64::MAX, "a load that is waited for needs a number of connections");
        self.start().wait()
    }
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    started: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
}

/// A load under way. Dropped without `stop`, it starts nothing more and is waited for.
pub struct Running {
    shared: Arc<Progress>,
    thread: Option<JoinHandle<Outcomes>>,
}

impl Running {
    /// Connections started so far.
    pub fn started(&self) -> u64 {
        self.shared.started.load(Relaxed)
    }

    /// Connections that have ended so far, well or badly.
    pub fn finished(&self) -> u64 {
        self.shared.finished.load(Relaxed)
    }

    /// Connections that have failed so far.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Relaxed)
    }

    /// Wait until this many have been started: the way to place an event in the middle of a load.
    pub fn until_started(&self, count: u64) {
        until(Duration::from_secs(300), "the load to get that far", || {
            self.started() >= count || self.thread.as_ref().is_none_or(JoinHandle::is_finished)
        });
    }

    /// Wait until `more` further connections have been started.
    pub fn until_further(&self, more: u64) {
        self.until_started(self.started() + more);
    }

    /// Start nothing more, wait for what is open (each at most its timeout).
    pub fn stop(self) -> Outcomes {
        self.shared.stop.store(true, Relaxed);
        self.wait()
    }

    /// Wait for a load that ends by itself.
    pub fn wait(mut self) -> Outcomes {
        let thread = self.thread.take().expect("waited for only once");
        thread.join().expect("the load thread panicked")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A span of time with a name, begun now and ended by `end`.
pub struct Span {
    label: String,
    from: Instant,
}

impl Span {
    /// Begin.
    pub fn begin(label: impl Into<String>) -> Span {
        Span { label: label.into(), from: Instant::now() }
    }

    /// End, and give the window for `Outcomes::by_window`.
    pub fn end(self) -> Window {
        Window { label: self.label, from: self.from, to: Instant::now() }
    }
}

//! The handle of a load under way, and the results of one that has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::LoadError;

/// The state that the generator's thread shares with the owner of the [`RunningLoad`].
#[derive(Default)]
pub(super) struct Progress {
    /// Start nothing more.
    pub(super) stop: AtomicBool,
    /// Close the open connections, too.
    pub(super) abandon: AtomicBool,
    pub(super) started: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) failed: AtomicU64,
    /// The largest delay of a start so far: the microseconds between the time at which it was due and the start itself.
    pub(super) max_start_delay: AtomicU64,
}

/// A load under way. When it is dropped, no more connections are started, and the open ones are closed.
pub struct RunningLoad<S> {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<FinishedLoad<S>>>,
}

/// The results of a load that has ended.
pub struct FinishedLoad<S> {
    /// The sink, which has taken all outcomes.
    pub sink: S,
    /// Connections or requests per second that were asked for.
    pub rate: u32,
    /// When the first connection was due.
    pub begin: Instant,
    /// From `begin` to the end of the last connection.
    pub wall: Duration,
    /// Processor time of the generator's thread.
    pub cpu: Duration,
    /// Connections made. Where connections are kept, these are fewer than the requests.
    pub connections: u64,
    /// Kept connections that the server closed between two requests.
    pub closed_between: u64,
    /// The largest delay of a start after the time at which it was due. A start that was due when the load was stopped,
    /// and not made, is included.
    pub max_start_delay: Duration,
    /// Connections or requests that were started and then abandoned. Their outcome is unknown.
    pub unfinished: u64,
}

impl<S> RunningLoad<S> {
    pub(super) fn new(progress: Arc<Progress>, thread: JoinHandle<FinishedLoad<S>>) -> RunningLoad<S> {
        RunningLoad { progress, thread: Some(thread) }
    }

    /// How many connections or requests have been started so far.
    pub fn started(&self) -> u64 {
        self.progress.started.load(Relaxed)
    }

    /// How many connections or requests have ended so far, successfully or not.
    pub fn finished(&self) -> u64 {
        self.progress.finished.load(Relaxed)
    }

    /// How many connections or requests have failed so far.
    pub fn failed(&self) -> u64 {
        self.progress.failed.load(Relaxed)
    }

    /// The largest delay of a start so far.
    pub fn max_start_delay(&self) -> Duration {
        Duration::from_micros(self.progress.max_start_delay.load(Relaxed))
    }

    /// Starts no more connections or requests. Returns without waiting for those that are open.
    pub fn stop_starting(&self) {
        self.progress.stop.store(true, Relaxed);
    }

    /// Starts no more connections or requests. Closes those that are open and records no outcome for them.
    pub fn abandon(&self) {
        self.progress.stop.store(true, Relaxed);
        self.progress.abandon.store(true, Relaxed);
    }

    /// Whether the generator's thread has ended.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Starts no more connections or requests. Waits for those that are open, for each at most its timeout.
    ///
    /// # Errors
    /// [`LoadError::Panicked`].
    pub fn stop(self) -> Result<FinishedLoad<S>, LoadError> {
        self.progress.stop.store(true, Relaxed);
        self.wait()
    }

    /// Waits for the end of a load that has a limit, or that has been told to stop.
    ///
    /// # Errors
    /// [`LoadError::Panicked`].
    pub fn wait(mut self) -> Result<FinishedLoad<S>, LoadError> {
        let thread = self.thread.take().ok_or(LoadError::Panicked)?;
        thread.join().map_err(|_| LoadError::Panicked)
    }
}

impl<S> Drop for RunningLoad<S> {
    fn drop(&mut self) {
        self.abandon();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

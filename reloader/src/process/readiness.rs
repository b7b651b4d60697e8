//! Waits until a generation is ready, or until it cannot become ready any more.

use std::time::Duration;

use tokio::time::Instant;

use super::{Ended, Handle};

/// How often the caller does what is due while it waits.
const PULSE_INTERVAL: Duration = Duration::from_secs(1);

/// Why a generation did not become ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// The process ended first.
    #[error("the new generation {0} before it was ready")]
    Ended(Ended),
    /// It took too long.
    #[error("the new generation was not ready within {}; raise {} if it needs longer", humantime::format_duration(.0.time), .0.setting)]
    TimedOut(StartLimit),
    /// Nothing serves meanwhile, and custody has been kept for `custody_max`.
    #[error("nothing serves, and the new generation was not ready within custody-max ({})", humantime::format_duration(*.0))]
    NothingServes(Duration),
    /// The daemon was asked to stop.
    #[error("the daemon was asked to stop")]
    Stopping,
    /// The directory of the socket cannot be watched.
    #[error("cannot watch for the new generation's socket: {0}")]
    Watch(std::io::Error),
    /// The state of the generation cannot be read.
    #[error("cannot determine whether the new generation is ready: {0}")]
    Unseen(String),
}

/// How long a start may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartLimit {
    /// From the launch of the process on.
    pub time: Duration,
    /// The key of the configuration that sets it.
    pub setting: &'static str,
}

/// The conditions, besides readiness, that end the wait.
pub struct Limits {
    /// How long the start may take.
    pub start: StartLimit,
    /// The generation that serves meanwhile.
    pub old: Option<Handle>,
    /// How long custody is kept while nothing serves, counted from the old generation's end.
    pub custody_max: Duration,
    /// When custody ends, if no generation serves at the beginning and custody has listeners. Otherwise `None`.
    pub custody_ends: Option<std::time::Instant>,
    /// Becomes true when the daemon is asked to stop. `None` if that must not interrupt the start.
    pub stopping: Option<tokio::sync::watch::Receiver<bool>>,
}

/// Waits until `reached` says that `process` is ready. Meanwhile it calls `pulse` every second, for the first time after a second. `pulse` returns when custody
/// ends, if nothing serves.
///
/// # Errors
/// The first condition of `limits` that applies, the end of `process`, or the error of `reached`.
pub async fn wait_until_ready(
    process: &Handle,
    reached: impl Future<Output = Result<(), NotReady>>,
    mut limits: Limits,
    mut pulse: impl FnMut() -> Option<std::time::Instant>,
) -> Result<(), NotReady> {
    let mut deadline = Instant::now() + limits.start.time;
    let mut timed_out = NotReady::TimedOut(limits.start);
    let nothing_serves = || NotReady::NothingServes(limits.custody_max);
    if let Some(custody_ends) = limits.custody_ends.map(Instant::from).filter(|ends| *ends < deadline) {
        (deadline, timed_out) = (custody_ends, nothing_serves());
    }
    // The caller has just done what it does in a pulse, or does it before the start.
    let mut beat = tokio::time::interval_at(Instant::now() + PULSE_INTERVAL, PULSE_INTERVAL);
    tokio::pin!(reached);
    loop {
        let old_ended = async {
            match &limits.old {
                Some(old) => old.ended().await,
                None => std::future::pending().await,
            }
        };
        let stopped = async {
            match &mut limits.stopping {
                Some(stopping) => drop(stopping.wait_for(|stopping| *stopping).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ready = &mut reached => return ready,
            ended = process.ended() => return Err(NotReady::Ended(ended)),
            _ = old_ended => {
                limits.old = None;
                let custody_ends = Instant::now() + limits.custody_max;
                if custody_ends < deadline {
                    (deadline, timed_out) = (custody_ends, nothing_serves());
                }
            }
            () = tokio::time::sleep_until(deadline) => return Err(timed_out),
            () = stopped => return Err(NotReady::Stopping),
            _ = beat.tick() => {
                if let Some(custody_ends) = pulse().map(Instant::from).filter(|ends| *ends < deadline) {
                    (deadline, timed_out) = (custody_ends, nothing_serves());
                }
            }
        }
    }
}

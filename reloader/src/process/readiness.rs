//! Waits until a generation is ready, and for what makes that vain.

use std::time::Duration;

use tokio::time::Instant;

use super::{Ended, Handle};

/// Why a generation did not become ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// The process ended first.
    #[error("the new generation {0} before it was ready")]
    Ended(Ended),
    /// It took too long.
    #[error("the new generation was not ready within {}; raise start-timeout if it needs longer", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// Nothing serves meanwhile, and custody may not be kept any longer.
    #[error("nothing serves, and the new generation was not ready within custody-max ({})", humantime::format_duration(*.0))]
    NothingServes(Duration),
    /// The daemon was asked to stop.
    #[error("the daemon was asked to stop")]
    Stopping,
    /// The directory of the socket cannot be watched.
    #[error("cannot watch for the new generation's socket: {0}")]
    Watch(std::io::Error),
    /// It cannot be seen whether it is ready.
    #[error("it cannot be seen whether the new generation is ready: {0}")]
    Unseen(String),
}

/// What ends the wait besides readiness.
pub struct Limits {
    /// The longest start.
    pub start_timeout: Duration,
    /// The generation that serves meanwhile.
    pub old: Option<Handle>,
    /// How long nobody may serve, counted from the old generation's end.
    pub custody_max: Duration,
    /// When that time is over, where nobody serves already and there is custody to give up.
    pub custody_ends: Option<std::time::Instant>,
    /// Becomes true when the daemon is asked to stop; `None` when the start must not be given up for that.
    pub stopping: Option<tokio::sync::watch::Receiver<bool>>,
}

/// Waits until `process` is ready, as `reached` tells; `pulse` is called about every second while it waits, and tells when custody ends if
/// nothing serves by then.
pub async fn wait_until_ready(
    process: &Handle,
    reached: impl Future<Output = Result<(), NotReady>>,
    mut limits: Limits,
    mut pulse: impl FnMut() -> Option<std::time::Instant>,
) -> Result<(), NotReady> {
    let mut deadline = Instant::now() + limits.start_timeout;
    let mut timed_out = NotReady::TimedOut(limits.start_timeout);
    let nobody_serves = || NotReady::NothingServes(limits.custody_max);
    if let Some(custody_ends) = limits.custody_ends.map(Instant::from).filter(|ends| *ends < deadline) {
        (deadline, timed_out) = (custody_ends, nobody_serves());
    }
    let mut beat = tokio::time::interval(Duration::from_secs(1));
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
                    (deadline, timed_out) = (custody_ends, nobody_serves());
                }
            }
            () = tokio::time::sleep_until(deadline) => return Err(timed_out),
            () = stopped => return Err(NotReady::Stopping),
            _ = beat.tick() => {
                if let Some(custody_ends) = pulse().map(Instant::from).filter(|ends| *ends < deadline) {
                    (deadline, timed_out) = (custody_ends, nobody_serves());
                }
            }
        }
    }
}

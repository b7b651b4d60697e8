//! Waits until a generation is ready: its private stats socket appears, and answers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify;
use tokio::time::Instant;

use super::runtime_api::{self, Info};
use crate::process::{Ended, Handle};
use crate::sys;

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
    NobodyServes(Duration),
    /// The daemon was asked to stop.
    #[error("the daemon was asked to stop")]
    Stopping,
    /// The directory of the socket cannot be watched.
    #[error("cannot watch for the new generation's socket: {0}")]
    Watch(std::io::Error),
}

/// Tells when a socket appears in a directory. Made before the process starts, so that nothing is missed.
#[derive(Debug)]
pub struct Appearance {
    path: PathBuf,
    events: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
}

/// How soon a socket that exists but does not listen yet is tried again: HAProxy renames it into place just before
/// it listens (`sock_unix_bind_receiver`, then `uxst_bind_listener`), and no event tells of listen(2).
const LISTEN_RETRY: Duration = Duration::from_millis(1);

impl Appearance {
    /// Watches for `path`, whose directory must exist.
    pub fn watch(path: &Path) -> Result<Appearance, NotReady> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let prepare = || {
            let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&events, directory, inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CREATE)?;
            sys::watch(events)
        };
        Ok(Appearance { path: path.to_owned(), events: prepare().map_err(NotReady::Watch)? })
    }

    async fn appeared(&self) -> std::io::Result<()> {
        while !self.path.exists() {
            let mut ready = self.events.readable().await?;
            let mut buffer = [0; 4096];
            // What happened does not matter, only that the directory changed.
            while rustix::io::read(self.events.get_ref(), &mut buffer).is_ok_and(|length| length > 0) {}
            ready.clear_ready();
        }
        Ok(())
    }

    /// Waits for the socket, then for the answer to `show info`: HAProxy answers once it has bound everything and runs.
    pub async fn answered(&self) -> Result<Info, NotReady> {
        self.appeared().await.map_err(NotReady::Watch)?;
        loop {
            match runtime_api::info(&self.path, Duration::from_secs(3600)).await {
                Ok(info) => return Ok(info),
                Err(_) => tokio::time::sleep(LISTEN_RETRY).await,
            }
        }
    }
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

/// Waits until `process` is ready; `pulse` is called about every second while it waits, and tells when custody ends if
/// nothing serves by then.
pub async fn ready(
    process: &Handle,
    appearance: &Appearance,
    mut limits: Limits,
    mut pulse: impl FnMut() -> Option<std::time::Instant>,
) -> Result<Info, NotReady> {
    let mut deadline = Instant::now() + limits.start_timeout;
    let mut timed_out = NotReady::TimedOut(limits.start_timeout);
    let nobody_serves = || NotReady::NobodyServes(limits.custody_max);
    if let Some(custody_ends) = limits.custody_ends.map(Instant::from).filter(|ends| *ends < deadline) {
        (deadline, timed_out) = (custody_ends, nobody_serves());
    }
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    let answered = appearance.answered();
    tokio::pin!(answered);
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
            answer = &mut answered => return answer,
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

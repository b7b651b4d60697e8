//! A hold, as it is asked for and got.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::health::HoldHealth;
use super::worker::HoldWorker;
use super::{Backend, Exception, HoldError, HoldStats, Target};
use crate::sys::Inheritance;

/// What is asked of a hold.
#[derive(Debug)]
pub struct HoldRequest {
    /// What is held.
    pub targets: Vec<Target>,
    /// Listeners of others, which a wildcard target leaves alone.
    pub exceptions: Vec<Exception>,
    /// The old server's listeners, by inode. See [`Hold::old_leaves`].
    pub old: HashSet<u64>,
    /// The gate; `None` for the best that can be had.
    pub backend: Option<Backend>,
    /// Bytes of room for parked SYNs.
    pub capacity: u32,
    /// The hold ends by itself after this time.
    pub max: Duration,
    /// Where the record is kept.
    pub runtime_dir: PathBuf,
    /// The path by which the network namespace was asked for, if it was not the caller's own: who cleans up finds it by that.
    pub netns_path: Option<PathBuf>,
    /// The program whose command `guard` is the guard; this program.
    pub program: PathBuf,
    /// What the guard is started with.
    pub inheritance: Inheritance,
}

/// A hold in force. Dropped, it is released.
#[derive(Debug)]
pub struct Hold {
    armed: HoldStarted,
    pulse: Arc<HoldHealth>,
    orders: OwnedFd,
    leaving: OwnedFd,
    thread: Option<JoinHandle<HoldOutcome>>,
}

/// How the hold began.
#[derive(Debug)]
pub struct HoldStarted {
    /// The gate.
    pub backend: Backend,
    /// Since when SYNs are parked.
    pub at: Instant,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// Why a hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// It was asked to.
    Asked,
    /// Its time was over.
    Max,
    /// Somebody called `reloader release`, or its guard did not hear of it any more.
    Lifted,
    /// It could not go on.
    Failed,
}

/// How the hold ended.
#[derive(Debug, Clone)]
pub struct HoldOutcome {
    /// What became of the SYNs.
    pub figures: HoldStats,
    /// When new SYNs passed again and all parked ones were delivered.
    pub at: Instant,
    /// Why it ended.
    pub why: EndReason,
    /// The first thing that went wrong and leaves the hold without a proof, as a sentence.
    pub trouble: Option<String>,
    /// What the operator should know.
    pub notes: Vec<String>,
}

impl Hold {
    /// Holds from the moment this returns, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Where nothing can be held; nothing is left then.
    pub fn begin(wanted: HoldRequest) -> Result<Hold, HoldError> {
        let orders = eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from)?;
        let heard = orders.try_clone()?;
        let leaving = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        let seen = leaving.try_clone()?;
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new().name("holder".into()).spawn(move || {
            let armed = HoldWorker::begin(wanted, seen);
            match armed {
                Ok((holder, armed)) => {
                    let _ = sender.send(Ok((armed, holder.pulse())));
                    holder.hold(&heard)
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                    HoldOutcome::failed(Vec::new())
                }
            }
        })?;
        match receiver.recv() {
            Ok(Ok((armed, pulse))) => Ok(Hold { armed, pulse, orders, leaving, thread: Some(thread) }),
            Ok(Err(error)) => {
                let _ = thread.join();
                Err(error)
            }
            Err(_) => Err(io::Error::other("the holder's thread ended").into()),
        }
    }

    /// How it began.
    pub fn armed(&self) -> &HoldStarted {
        &self.armed
    }

    /// The old server is about to be told to close its listeners. Should this process die from now on, the guard holds until others are
    /// there, or until the hold's time is over.
    pub fn old_leaves(&self) {
        if let Err(error) = rustix::io::write(&self.leaving, &1_u64.to_ne_bytes()) {
            log::error!("the guard of a hold does not know that the old server leaves: {error}");
        }
    }

    /// The old server has not closed its listeners after all.
    pub fn old_stays(&self) {
        let _ = rustix::io::read(&self.leaving, &mut [0_u8; 8]);
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// What speaks against a proof by now: also that it has ended by itself.
    pub fn doubt(&self) -> Option<String> {
        let failed = || self.has_ended().then_some(EndReason::Failed).and_then(EndReason::doubt).map(Into::into);
        self.pulse.doubt().or_else(failed)
    }

    /// Releases, and returns when everything is delivered and removed.
    pub fn release(mut self) -> HoldOutcome {
        self.end().unwrap_or_else(|| HoldOutcome::failed(vec!["the thread that held SYNs has panicked".into()]))
    }

    fn end(&mut self) -> Option<HoldOutcome> {
        let thread = self.thread.take()?;
        let _ = rustix::io::write(&self.orders, &1_u64.to_ne_bytes());
        thread.join().ok()
    }
}

impl EndReason {
    /// Why a hold that ended so proves nothing, as a sentence.
    pub fn doubt(self) -> Option<&'static str> {
        match self {
            EndReason::Asked => None,
            EndReason::Failed => Some("the hold failed before the new listener was there"),
            EndReason::Max => {
                Some("the hold ended before the new listener was there, because its longest time was over")
            }
            EndReason::Lifted => Some("the hold was lifted by `reloader release` before the new listener was there"),
        }
    }
}

impl HoldOutcome {
    fn failed(notes: Vec<String>) -> HoldOutcome {
        let trouble = notes.first().cloned();
        HoldOutcome { figures: HoldStats::default(), at: Instant::now(), why: EndReason::Failed, trouble, notes }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.end();
    }
}

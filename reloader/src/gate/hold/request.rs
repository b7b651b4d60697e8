//! The request for a hold, its beginning and its outcome.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::gate::contract::{Backend, Exception, HoldStats, Target};
use crate::sys::Inheritance;

/// What is asked of a hold.
#[derive(Debug)]
pub struct HoldRequest {
    /// The listeners whose SYNs are held.
    pub targets: Vec<Target>,
    /// Listeners of other servers, whose SYNs a wildcard target lets pass.
    pub exceptions: Vec<Exception>,
    /// The old server's listeners, by inode. See [`Hold::old_leaves`](super::Hold::old_leaves).
    pub old: HashSet<u64>,
    /// The gate, `None` for the best one that works.
    pub backend: Option<Backend>,
    /// Room for parked SYNs, in bytes.
    pub capacity: u32,
    /// The hold ends by itself after this time.
    pub max: Duration,
    /// The directory that has the hold registry.
    pub runtime_dir: PathBuf,
    /// The path that named the network namespace, where it is not the caller's own. A later cleanup finds the namespace by it.
    pub netns_path: Option<PathBuf>,
    /// The program whose command `guard` is the guard: this program.
    pub program: PathBuf,
    /// What the guard process inherits.
    pub inheritance: Inheritance,
}

/// How a hold began.
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
    /// [`Hold::release`](super::Hold::release) was called.
    Asked,
    /// Its longest time was over.
    Max,
    /// Its guard released: `reloader release` asked for it, or the guard did not hear of the holder any more.
    Lifted,
    /// It could not go on.
    Failed,
}

impl EndReason {
    /// Why a hold that ended for this reason proves nothing, as a sentence.
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

/// How a hold ended.
#[derive(Debug, Clone)]
pub struct HoldOutcome {
    /// What became of the SYNs.
    pub stats: HoldStats,
    /// When new SYNs passed again and all parked ones were delivered.
    pub at: Instant,
    /// Why it ended.
    pub reason: EndReason,
    /// The first doubt that arose during the hold, as a sentence. It leaves the hold without a proof.
    pub doubt: Option<String>,
    /// What the operator should know.
    pub notes: Vec<String>,
}

impl HoldOutcome {
    /// The outcome of a hold that did not come about, or whose thread is gone.
    pub(super) fn failed(notes: Vec<String>) -> HoldOutcome {
        let doubt = notes.first().cloned();
        HoldOutcome { stats: HoldStats::default(), at: Instant::now(), reason: EndReason::Failed, doubt, notes }
    }
}

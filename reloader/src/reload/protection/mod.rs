//! Protects listeners whose socket changes: TCP is steered where that is possible, and held where it is not; a unix path is drained.

mod deferral;
pub(crate) mod held;
pub(crate) mod pending_hold;
pub(crate) mod replaced;
pub(crate) mod reserved;
pub(super) mod steered;

use std::time::Duration;

use futures_util::future::join_all;

use self::held::HeldListeners;
use self::replaced::ReplacedPath;
use self::reserved::ReservedGroups;
use self::steered::SteeredListeners;
use crate::receipt::{Doubt, Recorder};
use crate::supervision::{PathLinks, Supervisor};

/// What protects the listeners of one reload.
#[derive(Default)]
pub(crate) struct Protection {
    pub(super) steered: Option<SteeredListeners>,
    pub(super) held: Option<HeldListeners>,
    pub(super) replaced: Vec<ReplacedPath>,
    pub(super) links: PathLinks,
    pub(super) reserved: ReservedGroups,
}

impl Protection {
    /// Lets the new generation get connections, because it is about to take over. Earlier, a failure of the new generation would cost these
    /// connections. Later, no socket is left through which a group could be freed.
    pub(super) fn open_to_new_generation(&mut self, supervisor: &mut Supervisor) {
        self.reserved.end(supervisor);
    }

    /// Whether the old listener with this inode is protected. A unix path that is bound again never is: its drain is no proof.
    pub(super) fn protects(&self, inode: Option<u64>) -> bool {
        self.steered.as_ref().is_some_and(|steered| steered.covers(inode))
            || self.held.as_ref().is_some_and(|held| held.covers(inode))
    }

    /// The doubt about a proof, as far as it is known by now.
    pub(super) fn doubts(&self) -> Option<Doubt> {
        let steered = self.steered.as_ref().and_then(SteeredListeners::doubts);
        let held = || self.held.as_ref().and_then(HeldListeners::doubts);
        steered.or_else(held)
    }

    /// The old generation was asked to close its listeners; `closed` where it was seen to have done so.
    pub(super) async fn after_close(&mut self, closed: bool) {
        if !closed {
            self.held.iter_mut().for_each(HeldListeners::doubt_the_close);
            self.steered.iter_mut().for_each(SteeredListeners::doubt_the_close);
        }
        if let Some(steered) = &mut self.steered {
            steered.settle().await;
        }
    }

    /// The new generation is given up: no connection that the old generation could get goes to it any more.
    pub(super) async fn roll_back(&mut self, timeout: Duration) {
        self.links.put_back();
        if let Some(steered) = &mut self.steered {
            steered.roll_back().await;
        }
        join_all(self.replaced.iter().map(|replaced| replaced.drain_back(timeout))).await;
    }

    /// Lifts the protection, and writes into the receipt what it proves.
    pub(super) async fn release(
        mut self,
        supervisor: &mut Supervisor,
        recorder: &mut Recorder,
        progress: &dyn Fn(&str),
    ) {
        self.reserved.end(supervisor);
        supervisor.keep_path_links(self.links);
        self.replaced.into_iter().for_each(|replaced| replaced.record(recorder));
        if self.steered.is_none() && self.held.is_none() {
            return;
        }
        if let Some(steered) = self.steered {
            steered.release(supervisor, recorder);
        }
        if let Some(held) = self.held {
            progress("releasing what was held");
            held.release(recorder).await;
        }
        recorder.phase(|phases| &mut phases.release);
    }
}

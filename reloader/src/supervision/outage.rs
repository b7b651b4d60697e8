//! Keeps the state of a service that serves nothing: since when, when the next start is due, and which ports are refused.

use std::time::{Duration, Instant};

use super::restart_policy::{self, CustodyEnd, Outage};
use crate::model::listener::Owned;

/// The number of checks in a row that find no descriptors in a generation whose root process lives. After so many the
/// generation no longer serves.
const LOOKS_UNTIL_GONE: u32 = 2;

/// Listeners that were given up because nothing served for too long.
#[derive(Debug)]
pub(crate) struct RefusedListeners {
    /// The time from which connections to their ports are refused.
    pub(crate) since: Instant,
    /// The listeners that were given up.
    pub(crate) listeners: Vec<Owned>,
}

/// What one service knows about its outages.
#[derive(Debug, Default)]
pub(crate) struct ServiceOutage {
    current: Option<Outage>,
    last: Option<Outage>,
    refused: Option<RefusedListeners>,
    /// The last start that failed was cut short by custody-max.
    cut_by_custody_max: bool,
    /// How many checks in a row found no descriptors in the serving generation.
    looks_without_descriptors: u32,
    /// Why a server that runs could not be adopted: nothing is started beside it.
    adoption_blocked: Option<String>,
}

impl ServiceOutage {
    /// The present outage, if nothing serves.
    pub(crate) fn current(&self) -> Option<&Outage> {
        self.current.as_ref()
    }

    /// The listeners whose ports are refused until a generation serves again.
    pub(crate) fn refused(&self) -> Option<&RefusedListeners> {
        self.refused.as_ref()
    }

    /// Why a server that runs could not be adopted.
    pub(crate) fn adoption_blocked(&self) -> Option<&str> {
        self.adoption_blocked.as_deref()
    }

    /// When custody is dropped at the latest, if there is an outage.
    pub(super) fn custody_ends(&self, custody_max: Duration) -> Option<Instant> {
        self.current.as_ref().map(|outage| outage.custody_ends(custody_max))
    }

    /// Why custody must be dropped now, if so.
    pub(super) fn why_custody_is_over(&self, custody_max: Duration) -> Option<CustodyEnd> {
        self.current.as_ref().and_then(|outage| outage.why_custody_is_over(Instant::now(), custody_max))
    }

    /// Begins an outage at `since`. The last generation had served for the time `served`.
    pub(super) fn begin(&mut self, since: Instant, served: Duration) {
        self.current = Some(Outage::begin(since, served, self.last.as_ref()));
        self.looks_without_descriptors = 0;
    }

    /// Ends the outage, because a generation serves.
    pub(super) fn end(&mut self) {
        self.last = self.current.take().or(self.last.take());
        self.refused = None;
        self.looks_without_descriptors = 0;
    }

    /// Removes the outage, because the generation that was asked to make room still serves.
    pub(super) fn revoke(&mut self) {
        self.current = None;
    }

    /// Counts a failed start during the outage. False if there is no outage.
    pub(super) fn count_failed_start(&mut self) -> bool {
        let Some(outage) = &mut self.current else { return false };
        outage.failed(Instant::now(), self.cut_by_custody_max);
        true
    }

    /// Begins an outage now with two failed starts: one from the configuration on disk, and one from the last-known-good
    /// configuration.
    pub(super) fn begin_after_failed_starts(&mut self) {
        let now = Instant::now();
        let mut outage = Outage::begin(now, Duration::MAX, None);
        outage.failed(now, self.cut_by_custody_max);
        outage.failed(now, self.cut_by_custody_max);
        self.current = Some(outage);
    }

    pub(super) fn set_cut_by_custody_max(&mut self, cut: bool) {
        self.cut_by_custody_max = cut;
    }

    pub(super) fn block_adoption(&mut self, why: String) {
        self.adoption_blocked = Some(why);
    }

    /// Notes that the ports of these listeners are refused from now on.
    pub(super) fn refuse(&mut self, listeners: Vec<Owned>) {
        if !listeners.is_empty() {
            self.refused = Some(RefusedListeners { since: Instant::now(), listeners });
        }
    }

    /// Adds listeners whose ports are refused. The time of the earlier ones stays.
    pub(super) fn refuse_also(&mut self, mut listeners: Vec<Owned>) {
        let earlier = self.refused.take();
        let since = earlier.as_ref().map_or_else(Instant::now, |refused| refused.since);
        listeners.extend(earlier.into_iter().flat_map(|refused| refused.listeners));
        self.refused = Some(RefusedListeners { since, listeners });
    }

    pub(super) fn note_descriptors(&mut self) {
        self.looks_without_descriptors = 0;
    }

    /// Counts a check that found no descriptors in the serving generation. True after enough of them in a row.
    pub(super) fn note_no_descriptors(&mut self) -> bool {
        self.looks_without_descriptors += 1;
        self.looks_without_descriptors >= LOOKS_UNTIL_GONE
    }
}

/// How long custody is kept with nothing serving: as configured, or by how long the last start took.
pub(super) fn custody_max(configured: Option<Duration>, last_start: Option<Duration>) -> Duration {
    restart_policy::custody_max(configured, last_start)
}

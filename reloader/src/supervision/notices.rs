//! Keeps the warnings of one service until their cause has gone. Each warning has one owner, which sets and clears it.
//! For example, a good reload does not clear the warning about a configuration that was not read.

use std::collections::BTreeMap;

/// What a warning is about. `status` lists them in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Notice {
    /// Nothing serves, and why. Owner: what ends or starts generations.
    NothingServes,
    /// The address of a listener does not lead to its socket. Owner: what looks at reachability.
    Unreachable,
    /// Another server listens on one of the addresses. Owner: the look at the surroundings.
    ForeignListener,
    /// The last-known-good configuration serves, because the one on disk does not start. Owner: what starts generations.
    LastKnownGood,
    /// HAProxy would not start from the copies of the last-known-good configuration. Owner: what tries them.
    LastKnownGoodFails,
    /// Files were too large to be copied. Owner: what keeps the copies.
    LastKnownGoodIncomplete,
    /// The last retired generation that ended had not finished its connections. Owner: what reaps draining generations.
    CutShort,
    /// The serving generation has something that the next one cannot bind beside it. Owner: what proves generations.
    NextReload,
    /// reloader's own configuration was not read. Owner: the read of the configuration.
    Configuration,
    /// runtime-dir was emptied, and cannot be used again. Owner: what restores it.
    RuntimeDir,
    /// The last receipt was not stored. Owner: the journal.
    Journal,
    /// The daemon is ending. Owner: the end.
    Ending,
    /// Programs or qdiscs that a dead hold left in the packet path were not removed. Owner: the clean-up.
    HoldResidue,
    /// Services of an earlier configuration run on. Owner: the start of the daemon.
    ForgottenServices,
    /// A generation of supervised mode runs on beside companion mode. Owner: the start of the daemon.
    SupervisedGeneration,
}

/// The warnings of one service, at most one about each thing.
#[derive(Debug, Default)]
pub(crate) struct Notices(BTreeMap<Notice, String>);

impl Notices {
    /// Sets the warning about something. It replaces the earlier one.
    pub(super) fn set(&mut self, notice: Notice, text: impl Into<String>) {
        self.0.insert(notice, text.into());
    }

    /// Clears the warning, because its cause has gone.
    pub(super) fn clear(&mut self, notice: Notice) {
        self.0.remove(&notice);
    }

    /// Sets the warning, or clears it if there is no text.
    pub(super) fn replace(&mut self, notice: Notice, text: Option<String>) {
        match text {
            Some(text) => self.set(notice, text),
            None => self.clear(notice),
        }
    }

    /// Whether there is a warning about this.
    pub(crate) fn has(&self, notice: Notice) -> bool {
        self.0.contains_key(&notice)
    }

    /// All warnings, as sentences.
    pub(crate) fn sentences(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_stays_until_its_own_cause_has_gone() {
        let mut notices = Notices::default();
        notices.set(Notice::Configuration, "not read");
        notices.set(Notice::NothingServes, "it crashed");
        notices.clear(Notice::NothingServes);
        assert_eq!(notices.sentences().collect::<Vec<_>>(), ["not read"]);
        notices.set(Notice::Configuration, "still not read");
        assert_eq!(notices.sentences().collect::<Vec<_>>(), ["still not read"]);
        notices.replace(Notice::Configuration, None);
        assert_eq!(notices.sentences().count(), 0);
    }
}

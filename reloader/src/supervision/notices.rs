//! Keeps the warnings of one service until their cause has gone. Each warning has one owner, which sets and clears it.
//! For example, a good reload does not clear the warning about a configuration that was not read.

use std::collections::BTreeMap;

use crate::process::Handle;

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
    /// The pid file cannot be kept. Owner: what follows the pid file.
    PidFile,
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
pub(crate) struct Notices {
    sentences: BTreeMap<Notice, String>,
    /// Those about processes that run on.
    of_processes: BTreeMap<Notice, ProcessNotice>,
}

/// A warning about processes. Each is named as long as it runs.
#[derive(Debug, Clone)]
pub(crate) struct ProcessNotice {
    /// The processes, and how they are named.
    pub(crate) processes: Vec<(Handle, String)>,
    /// What there is to say about them, to follow their names.
    pub(crate) text: String,
}

impl ProcessNotice {
    /// The warning as a sentence.
    pub(crate) fn sentence(&self) -> String {
        let names: Vec<&str> = self.processes.iter().map(|(_, name)| name.as_str()).collect();
        format!("{}: {}", names.join(", "), self.text)
    }
}

impl Notices {
    /// Sets the warning about something. It replaces the earlier one.
    pub(super) fn set(&mut self, notice: Notice, text: impl Into<String>) {
        self.sentences.insert(notice, text.into());
    }

    /// Clears the warning, because its cause has gone.
    pub(super) fn clear(&mut self, notice: Notice) {
        self.sentences.remove(&notice);
        self.of_processes.remove(&notice);
    }

    /// Sets a warning about processes that run on, or clears it if there are none.
    pub(super) fn set_of_processes(&mut self, notice: Notice, about: Option<ProcessNotice>) {
        self.clear(notice);
        if let Some(about) = about.filter(|about| !about.processes.is_empty()) {
            self.set(notice, about.sentence());
            self.of_processes.insert(notice, about);
        }
    }

    /// Leaves out processes that have ended. Another process may get such a pid, and must not be the one that is named. True if a warning has
    /// changed.
    pub(super) fn forget_ended(&mut self) -> bool {
        let lives = |(process, _): &(Handle, String)| process.try_ended().is_none();
        let is_stale = |about: &ProcessNotice| !about.processes.iter().all(lives);
        let stale = self.of_processes.iter().filter(|(_, about)| is_stale(about));
        let stale: Vec<(Notice, ProcessNotice)> = stale.map(|(notice, about)| (*notice, about.clone())).collect();
        let has_changed = !stale.is_empty();
        for (notice, mut about) in stale {
            about.processes.retain(lives);
            self.set_of_processes(notice, Some(about));
        }
        has_changed
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
        self.sentences.contains_key(&notice)
    }

    /// All warnings, as sentences.
    pub(crate) fn sentences(&self) -> impl Iterator<Item = &str> {
        self.sentences.values().map(String::as_str)
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

    #[test]
    fn process_is_named_only_as_long_as_it_runs() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let short = Handle::spawn(std::process::Command::new("sleep").arg("60")).unwrap();
            let own = std::process::id();
            let lasting = Handle::adopt(own, crate::process::start_time(own).unwrap()).unwrap();
            let mut notices = Notices::default();
            let processes = vec![(short.clone(), "one (process 1)".into()), (lasting, "two (process 2)".into())];
            let about = ProcessNotice { processes, text: "still running".into() };
            notices.set_of_processes(Notice::ForgottenServices, Some(about));
            assert!(!notices.forget_ended());
            assert_eq!(notices.sentences().collect::<Vec<_>>(), ["one (process 1), two (process 2): still running"]);
            short.signal(rustix::process::Signal::KILL);
            short.ended().await;
            assert!(notices.forget_ended());
            assert_eq!(notices.sentences().collect::<Vec<_>>(), ["two (process 2): still running"]);
            notices.clear(Notice::ForgottenServices);
            assert!(!notices.forget_ended() && notices.sentences().next().is_none());
        });
    }
}

//! Keeps the last-known-good configuration of a service, and knows whether HAProxy would start from it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::Supervisor;
use crate::config;
use crate::haproxy::scan::Source;
use crate::receipt::FileDigest;
use crate::server::ReadByServer;
use crate::supervision::Notice;
use crate::supervision::last_known_good::Verdict;

/// The check of the copies gets at least this time: it runs at the lowest priority.
const SHORTEST_TRIAL: Duration = Duration::from_secs(60);

impl Supervisor {
    /// The files of the last-known-good configuration, where there are any.
    pub(crate) fn last_known_good(&self) -> Option<Vec<PathBuf>> {
        self.last_known_good.config()
    }

    /// Whether there are copies of another configuration than the one with these files.
    pub(crate) fn has_another_known_good(&self, sources: &[Source]) -> bool {
        self.last_known_good.config().is_some() && !self.last_known_good.is_of(sources)
    }

    /// Keeps copies of a configuration that has started, whose files have these digests. True if the copies are to be tried: they are new, or
    /// HAProxy would not have started from them before.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) async fn keep_last_known_good(
        &mut self,
        read: ReadByServer,
        configuration: Vec<FileDigest>,
    ) -> io::Result<bool> {
        let kept = self.server().adoptable_haproxy().map(|haproxy| haproxy.last_known_good);
        let with_files = kept == Some(config::LastKnownGood::WithFiles);
        let heartbeat = self.heartbeat();
        let refused = self.notices.has(Notice::LastKnownGoodFails);
        let is_new = heartbeat.during(self.last_known_good.save(read, with_files, configuration, refused)).await?;
        self.note_incomplete_copies();
        Ok(is_new)
    }

    /// Ends a trial that is under way. True if there was one.
    pub(crate) fn interrupt_trial(&mut self) -> bool {
        self.last_known_good.interrupt_trial()
    }

    /// Begins to try the copies beside the loop, if there are any.
    pub(crate) fn try_last_known_good(&mut self) {
        let check = self.last_known_good().and_then(|config| self.server().check_copies(config));
        let timeout = self.config().reload.start_timeout.max(SHORTEST_TRIAL);
        match check {
            Some(check) => self.last_known_good.begin_trial(check, timeout),
            None => self.last_known_good.skip_trial(),
        }
    }

    /// Takes what a trial of the copies has found, and begins the next one if it is due. While nothing serves, the copies are tried in earnest.
    pub(super) fn follow_last_known_good(&mut self) {
        if let Some(verdict) = self.last_known_good.take_verdict() {
            self.note_verdict(&verdict);
        }
        let is_idle = self.generations.starting().is_none() && self.serving().is_some();
        if is_idle && self.last_known_good.is_trial_due() {
            self.note_incomplete_copies();
            self.try_last_known_good();
        }
    }

    fn note_verdict(&mut self, verdict: &Verdict) {
        let text = match verdict {
            Verdict::Starts => None,
            Verdict::Refused(line) => Some(format!(
                "HAProxy would not start from the last-known-good configuration: {line}; put back what it names, then reload"
            )),
            Verdict::TimedOut(limit) => Some(format!(
                "it is not known whether HAProxy would start from the last-known-good configuration: its check was not done within {}; \
                 it has the lowest priority, so the machine may be busy, or it waits for something; it is tried again within the hour",
                humantime::format_duration(*limit)
            )),
        };
        match &text {
            Some(text) => log::warn!("{}: {text}", self.name()),
            None => log::info!("{}: HAProxy would start from the last-known-good configuration", self.name()),
        }
        self.replace_warning(Notice::LastKnownGoodFails, text);
        self.publish();
    }

    fn note_incomplete_copies(&mut self) {
        self.replace_warning(Notice::LastKnownGoodIncomplete, self.last_known_good.too_large());
    }
}

//! Keeps copies of the last-known-good configuration in `state-dir/last-known-good`, with the files that it names. It is the last
//! configuration that started. The copies are tried before they are needed.

mod contents;
#[cfg(test)]
mod tests;
mod trial;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use contents::{Contents, CopiedFrom};
use trial::Trial;
pub(crate) use trial::Verdict;

use crate::haproxy::scan::Source;
use crate::process::BlockingLane;
use crate::receipt::FileDigest;
use crate::server::{Check, ReadByServer};

/// Copies of the configuration.
#[derive(Debug)]
pub(crate) struct LastKnownGood {
    directory: PathBuf,
    contents: Contents,
    lane: BlockingLane,
    trial: Trial,
}

impl LastKnownGood {
    /// The copies in `state_dir`, as an earlier daemon left them.
    pub(crate) fn open(state_dir: &Path) -> LastKnownGood {
        let directory = state_dir.join("last-known-good");
        if let Err(error) = writer::restore(&directory) {
            log::error!("{} cannot be put back: {error}", directory.display());
        }
        let contents = Contents::read(&directory).unwrap_or_default();
        LastKnownGood { directory, contents, lane: BlockingLane::default(), trial: Trial::default() }
    }

    /// Keeps copies of `read`, whose files have these digests. They are written without blocking the loop, and not at all if they are kept
    /// already and HAProxy has not `refused` them. True if they were written.
    ///
    /// # Errors
    /// If the file system returns an error or hangs, or a file has another digest now. After a hang the copies may still be written later.
    pub(crate) async fn save(
        &mut self,
        read: ReadByServer,
        with_files: bool,
        configuration: Vec<FileDigest>,
        refused: bool,
    ) -> io::Result<bool> {
        let source = CopiedFrom { directory: self.directory.clone(), with_files, configuration };
        let save = move || writer::save(&read.sources, &read.working_dir, source, refused);
        let (contents, is_new) = self.lane.run("storing the copies", save).await?;
        self.contents = contents;
        Ok(is_new)
    }

    /// The copies as HAProxy's `-f` takes them, when there are any.
    pub(crate) fn config(&self) -> Option<Vec<PathBuf>> {
        // Earlier versions kept the configuration files alone.
        let candidates = [self.directory.join(writer::START), self.directory.clone()];
        candidates.into_iter().find(|directory| directory.is_dir()).map(|directory| vec![directory])
    }

    /// Whether the copies were made from these configuration files. What the files name is not compared.
    pub(crate) fn is_of(&self, sources: &[Source]) -> bool {
        let copied = &self.contents.source.configuration;
        !sources.is_empty()
            && copied.len() >= sources.len()
            && sources.iter().zip(copied).all(|((path, bytes), copied)| FileDigest::new(path, bytes) == *copied)
    }

    /// A sentence about files that were too large to be copied.
    pub(crate) fn too_large(&self) -> Option<String> {
        let files = &self.contents.too_large;
        (!files.is_empty()).then(|| {
            format!(
                "last-known-good has no copy of {}: at most 32 MiB of one file, 128 MiB of all and 4096 files are copied; HAProxy starts from \
                 it only while the originals are there",
                files.join(", ")
            )
        })
    }

    /// A sentence about names that lead outside of the copies.
    pub(crate) fn not_pinned(&self) -> Option<String> {
        let names = &self.contents.not_pinned;
        (!names.is_empty())
            .then(|| format!("last-known-good has no copy of what it cannot follow: {}", names.join(", ")))
    }

    /// Begins to try the copies beside the loop. It takes no longer than `timeout`.
    pub(crate) fn begin_trial(&mut self, check: Check, timeout: Duration) {
        self.trial.begin(check, timeout);
    }

    /// Ends a trial that is under way. True if there was one.
    pub(crate) fn interrupt_trial(&mut self) -> bool {
        self.trial.interrupt()
    }

    /// Notes that there is nothing to try.
    pub(crate) fn skip_trial(&mut self) {
        self.trial.skip();
    }

    /// Whether the copies were not tried for a long time, or not yet by this daemon.
    pub(crate) fn is_trial_due(&self) -> bool {
        self.trial.is_due()
    }

    /// What a trial has found since the last call.
    pub(crate) fn take_verdict(&mut self) -> Option<Verdict> {
        self.trial.take_verdict()
    }
}

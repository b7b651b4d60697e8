//! Keeps the state of one attempt at a reload, from the request to the receipt.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::protection::Protection;
use super::shared_start::{SharedStart, Started};
use crate::receipt::{AskedBy, FileDigest, Kind, Recorder};
use crate::server::{Prepared, ReadByServer};
use crate::supervision::{Generation, Supervisor};

/// How long the end of a reload waits for the digests of its configuration, which were begun at its beginning.
const DIGESTS_TIMEOUT: Duration = Duration::from_secs(2);

/// What is asked of a reload.
#[derive(Debug, Clone)]
pub(crate) struct ReloadRequest {
    /// Why a new generation is wanted.
    pub(crate) kind: Kind,
    /// When it was asked for.
    pub(crate) asked: Instant,
    /// The number of further requests that this reload answers.
    pub(crate) coalesced: u64,
    /// Start from the last-known-good configuration instead of the one on disk.
    pub(crate) use_known_good: bool,
    /// Who asked. `None` if the daemon acts by itself.
    pub(crate) asked_by: Option<AskedBy>,
}

impl ReloadRequest {
    /// A request that the daemon itself makes now.
    pub(crate) fn now(kind: Kind) -> ReloadRequest {
        ReloadRequest { kind, asked: Instant::now(), coalesced: 0, use_known_good: false, asked_by: None }
    }
}

/// One reload under way: its service, its receipt, what protects its listeners, and where its progress is told. The steps are its methods.
pub(crate) struct Attempt<'a> {
    pub(super) supervisor: &'a mut Supervisor,
    pub(super) request: ReloadRequest,
    pub(super) recorder: Recorder,
    pub(super) protection: Protection,
    progress: &'a dyn Fn(&str),
    /// The digests of the configuration, which are made beside the reload.
    digests: Option<JoinHandle<Vec<FileDigest>>>,
    /// What the new generation reads.
    pub(super) read: Option<ReadByServer>,
    /// Whether the new generation is to run the last-known-good configuration.
    pub(super) is_known_good: bool,
    /// What lets the new generation bind its ports beside the old one, until it starts.
    pub(super) shared_start: Option<SharedStart>,
    /// The same generation from then on, until it serves or is given up.
    pub(super) started: Option<Started>,
    /// Why the next reload would fail.
    pub(super) next_obstacle: Option<String>,
}

impl<'a> Attempt<'a> {
    /// Begins an attempt. `progress` gets a few words about each step.
    pub(super) fn new(
        supervisor: &'a mut Supervisor,
        request: ReloadRequest,
        progress: &'a dyn Fn(&str),
    ) -> Attempt<'a> {
        let ReloadRequest { kind, asked, coalesced, .. } = request;
        let old = supervisor.serving().map(Generation::id);
        let mut recorder = Recorder::begin(Some(supervisor.name()), kind, asked, coalesced, old);
        recorder.receipt().asked_by.clone_from(&request.asked_by);
        Attempt {
            supervisor,
            request,
            recorder,
            protection: Protection::default(),
            progress,
            digests: None,
            read: None,
            is_known_good: false,
            shared_start: None,
            started: None,
            next_obstacle: None,
        }
    }

    /// Tells what happens now.
    pub(super) fn tell(&self, phase: &str) {
        (self.progress)(phase);
    }

    /// Begins to make the digests of the configuration that the new generation reads.
    pub(super) fn begin_digests(&mut self, prepared: &Prepared) {
        self.read = prepared.read_by_server();
        self.is_known_good = prepared.is_known_good;
        self.digests = prepared.digests().map(tokio::task::spawn_blocking);
    }

    /// Writes the digests into the receipt, and whether the configuration is the same as before. A file system that hangs leaves them out.
    pub(super) async fn record_configuration(&mut self) {
        let Some(digests) = self.digests.take() else { return };
        let made = self.supervisor.heartbeat().during(tokio::time::timeout(DIGESTS_TIMEOUT, digests)).await;
        let Ok(Ok(digests)) = made else {
            return self
                .recorder
                .note("the files of the configuration could not be read in time: their digests are not known");
        };
        // A file that could not be read may have changed.
        let is_known = digests.iter().all(|file| file.sha256.is_some());
        let before = self.supervisor.served_configuration().filter(|_| is_known);
        self.recorder.receipt().unchanged = before.map(|before| *before == digests);
        self.recorder.receipt().configuration = Some(digests);
    }

    /// Whether the new generation must serve, because the earlier one has ended. An unproven listener, or one shared with a foreign server, is
    /// better than none.
    pub(super) fn must_serve(&self) -> bool {
        self.request.kind != Kind::Start && !self.supervisor.is_served()
    }

    /// Lifts the protection of the old listeners, and writes into the receipt what it proves.
    pub(super) async fn release(&mut self) {
        let protection = std::mem::take(&mut self.protection);
        protection.release(self.supervisor, &mut self.recorder, self.progress).await;
    }
}

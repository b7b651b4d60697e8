//! Stores the receipts of one service, and keeps the last one for `status`.

use std::path::PathBuf;

use super::Journal;
use crate::process::BlockingLane;
use crate::receipt::{FileDigest, GenerationId, Kind, Outcome, Receipt};

/// The receipts of one service.
#[derive(Debug)]
pub(crate) struct Receipts {
    journal: Journal,
    state_dir: PathBuf,
    lane: BlockingLane,
    last: Option<Receipt>,
    /// The configuration of the last generation that was started, as far as a receipt has it.
    served: Option<Vec<FileDigest>>,
}

impl Receipts {
    /// The receipts that `journal` stores in `state_dir`. The last receipt that an earlier daemon stored for the service
    /// `name` is read.
    pub(crate) fn new(journal: Journal, state_dir: PathBuf, name: &str) -> Receipts {
        let last = journal.last_reload(name);
        let served = last.as_ref().and_then(configuration_of);
        Receipts { journal, state_dir, lane: BlockingLane::default(), last, served }
    }

    /// The last receipt. Receipts about the end of a generation do not count.
    pub(crate) fn last(&self) -> Option<&Receipt> {
        self.last.as_ref()
    }

    /// The configuration of the last generation that was started. `None` if no receipt has it.
    pub(super) fn served_configuration(&self) -> Option<&Vec<FileDigest>> {
        self.served.as_ref()
    }

    /// Something else started what serves now: its configuration is in no receipt.
    pub(super) fn forget_configuration(&mut self) {
        self.served = None;
    }

    /// Logs a receipt, and keeps it as the last one unless it is about the end of a generation.
    pub(super) fn note(&mut self, receipt: &Receipt) {
        log(receipt);
        self.served = configuration_of(receipt).or(self.served.take());
        if receipt.kind != Kind::End {
            self.last = Some(receipt.clone());
        }
    }

    /// Stores a receipt without blocking the loop.
    ///
    /// # Errors
    /// Why the journal did not take it, as a sentence.
    pub(super) async fn store(&self, receipt: &Receipt) -> Result<(), String> {
        let (journal, receipt) = (self.journal.clone(), receipt.clone());
        let stored = self.lane.run("storing the receipt", move || journal.append(&receipt)).await;
        stored.map_err(|error| format!("the receipt was not stored in {}: {error}", self.state_dir.display()))
    }
}

fn configuration_of(receipt: &Receipt) -> Option<Vec<FileDigest>> {
    receipt.configuration.clone().filter(|_| receipt.result != Outcome::Failed)
}

/// Logs one line for a receipt, so that the log alone tells what happened.
fn log(receipt: &Receipt) {
    let generation = |id: Option<GenerationId>| id.map_or("none".into(), |id| id.generation.to_string());
    let what = format!(
        "{} {:?} {:?}: generation {} -> {}, {} listeners",
        receipt.service.as_deref().unwrap_or_default(),
        receipt.kind,
        receipt.result,
        generation(receipt.old),
        generation(receipt.new),
        receipt.listeners.len()
    )
    .to_lowercase();
    let server_log: String = receipt.server_log.iter().map(|line| format!("\n  {line}")).collect();
    match (&receipt.reason, receipt.result) {
        (Some(reason), Outcome::Failed) => log::error!("{what}: {reason}{server_log}"),
        (Some(reason), _) => log::warn!("{what}: {reason}"),
        (None, _) => log::info!("{what}"),
    }
}

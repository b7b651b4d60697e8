//! Writes the record of running generations beside the loop, in the order in which the records were made.

use std::io;
use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};

use super::records::GenerationRecords;
use crate::process::BlockingLane;

/// A record that is to be written, and where the outcome is wanted.
struct Job {
    records: GenerationRecords,
    reply: Option<oneshot::Sender<io::Result<()>>>,
}

/// Writes the record of one service, one at a time. Of several that wait only the newest is written.
pub(crate) struct RecordWriter(mpsc::UnboundedSender<Job>);

impl RecordWriter {
    /// Writes into `place`, from a task of the current runtime.
    pub(crate) fn new(place: PathBuf) -> RecordWriter {
        let (jobs, waiting) = mpsc::unbounded_channel();
        tokio::spawn(write_all(place, waiting));
        RecordWriter(jobs)
    }

    /// Writes, with nothing waiting for it. A failure is logged.
    pub(super) fn submit(&self, records: GenerationRecords) {
        // The task ends only with its runtime.
        let _ = self.0.send(Job { records, reply: None });
    }

    /// Writes, and waits until it is done.
    ///
    /// # Errors
    /// Where the file system refuses, or hangs.
    pub(super) async fn store(&self, records: GenerationRecords) -> io::Result<()> {
        let (reply, written) = oneshot::channel();
        let _ = self.0.send(Job { records, reply: Some(reply) });
        written.await.unwrap_or_else(|_| Err(io::Error::other("the daemon is ending")))
    }
}

async fn write_all(place: PathBuf, mut waiting: mpsc::UnboundedReceiver<Job>) {
    let lane = BlockingLane::default();
    while let Some(mut job) = waiting.recv().await {
        let mut replies: Vec<_> = job.reply.take().into_iter().collect();
        while let Ok(newer) = waiting.try_recv() {
            job = newer;
            replies.extend(job.reply.take());
        }
        let (records, directory) = (job.records, place.clone());
        let write = move || records.store(&directory);
        let written = lane.run("recording the running generations", write).await;
        if let Err(error) = &written {
            log::error!("cannot record the running generations in {}: {error}", place.display());
        }
        for reply in replies {
            let _ = reply.send(match &written {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(next: u64) -> GenerationRecords {
        GenerationRecords { next, ..GenerationRecords::default() }
    }

    #[tokio::test]
    async fn records_are_written_in_order_and_a_refusal_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let writer = RecordWriter::new(directory.path().to_owned());
        for next in 2..20 {
            writer.submit(numbered(next));
        }
        writer.store(numbered(20)).await.unwrap();
        assert_eq!(GenerationRecords::load(directory.path()).next, 20);
        let nowhere = RecordWriter::new(directory.path().join("none"));
        assert_eq!(nowhere.store(numbered(1)).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

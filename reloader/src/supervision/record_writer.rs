//! Writes the record of running generations without blocking the loop, in the order in which the records were made.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::records::GenerationRecords;
use crate::process::BlockingLane;

/// The pause before a record that could not be written is written again.
const REWRITE_INTERVAL: Duration = Duration::from_secs(1);

/// A record to write, and the sender for the outcome if a caller waits for it.
struct Job {
    records: GenerationRecords,
    reply: Option<oneshot::Sender<io::Result<()>>>,
}

/// Writes the records of one service, one at a time. If several wait, only the newest is written.
pub(crate) struct RecordWriter(mpsc::UnboundedSender<Job>);

impl RecordWriter {
    /// Writes into `place`, from a task of the current runtime.
    pub(crate) fn new(place: PathBuf) -> RecordWriter {
        let (jobs, waiting) = mpsc::unbounded_channel();
        tokio::spawn(write_all(place, waiting));
        RecordWriter(jobs)
    }

    /// Writes the record without waiting for it. A failure is logged.
    pub(super) fn submit(&self, records: GenerationRecords) {
        // The task ends only with its runtime.
        let _ = self.0.send(Job { records, reply: None });
    }

    /// Writes the record, and waits until it is written.
    ///
    /// # Errors
    /// If the file system returns an error or hangs.
    pub(super) async fn store(&self, records: GenerationRecords) -> io::Result<()> {
        let (reply, written) = oneshot::channel();
        let _ = self.0.send(Job { records, reply: Some(reply) });
        written.await.unwrap_or_else(|_| Err(io::Error::other("the daemon is ending")))
    }
}

/// Writes the records that arrive. A record whose write failed is written again until it, or a newer one, is written: a
/// write that hung may store an older record later.
async fn write_all(place: PathBuf, mut waiting: mpsc::UnboundedReceiver<Job>) {
    let lane = BlockingLane::default();
    let mut unwritten: Option<GenerationRecords> = None;
    loop {
        let again = async {
            match &unwritten {
                Some(records) => {
                    tokio::time::sleep(REWRITE_INTERVAL).await;
                    Job { records: records.clone(), reply: None }
                }
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            biased;
            job = waiting.recv() => job,
            job = again => Some(job),
        };
        let Some(mut job) = next else { return };
        let mut replies: Vec<_> = job.reply.take().into_iter().collect();
        while let Ok(newer) = waiting.try_recv() {
            job = newer;
            replies.extend(job.reply.take());
        }
        let written = write(&lane, &place, job.records.clone()).await;
        if let Err(error) = &written
            && unwritten.is_none()
        {
            log::error!("cannot record the running generations in {}: {error}", place.display());
        }
        unwritten = written.is_err().then_some(job.records);
        for reply in replies {
            let _ = reply.send(match &written {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
    }
}

async fn write(lane: &BlockingLane, place: &Path, records: GenerationRecords) -> io::Result<()> {
    let directory = place.to_owned();
    lane.run("recording the running generations", move || records.store(&directory)).await
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

    #[tokio::test]
    async fn record_that_could_not_be_written_is_written_once_that_is_possible() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("later");
        let writer = RecordWriter::new(place.clone());
        writer.store(numbered(7)).await.unwrap_err();
        std::fs::create_dir(&place).unwrap();
        while GenerationRecords::load(&place).next != 7 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

//! Writes files for the next daemon and for people: the record of running generations, receipts, the pid file.

use std::io;
use std::path::{Path, PathBuf};

use super::Supervisor;
use crate::receipt::{FileDigest, Receipt};
use crate::supervision::Notice;
use crate::supervision::records::{GenerationRecords, State};

impl Supervisor {
    /// Records that the starting generation serves and that the serving one drains, before either happens.
    ///
    /// If the daemon is killed after this, the next daemon retires the old generation again. Without this record it would
    /// retire the new generation while the old one drains already. The reload is therefore given up if the record cannot
    /// be written.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) async fn record_handover(&self) -> io::Result<()> {
        let mut records = self.generation_records();
        for record in &mut records.generations {
            record.state = match record.state {
                State::Starting => State::Serving,
                _ => State::Draining,
            };
        }
        self.heartbeat().during(self.records.store(records)).await
    }

    /// Records the running generations, and waits until the record is written. A failure is logged.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) async fn record_now(&self) -> io::Result<()> {
        self.heartbeat().during(self.records.store(self.generation_records())).await
    }

    /// Records the running generations without blocking the loop. A failure is logged.
    pub(crate) fn record(&self) {
        self.records.submit(self.generation_records());
    }

    /// Does the same as [`record`](Self::record), and notes which flags were recorded.
    pub(super) fn record_with_flags(&mut self) {
        self.record();
        self.sockets.note_recorded_flags(self.nonblocking());
    }

    fn generation_records(&self) -> GenerationRecords {
        GenerationRecords {
            next: self.generations.next_number(),
            last_start_ms: self.generations.last_start().map(|time| time.as_millis() as u64),
            companion: !self.server().owns_lifecycle(),
            generations: self.generations.records(),
            nonblocking: self.nonblocking(),
        }
    }

    /// Which sockets in custody have O_NONBLOCK. Empty for HAProxy, all of whose listeners have it.
    pub(super) fn nonblocking(&self) -> Vec<u64> {
        if self.server().never_blocks_in_accept() { Vec::new() } else { self.custody().nonblocking() }
    }

    /// Stores a receipt. Returns the reason if the journal did not take it.
    pub(crate) async fn store_receipt(&mut self, receipt: &Receipt) -> Option<String> {
        self.receipts.note(receipt);
        let stored = self.heartbeat().during(self.receipts.store(receipt)).await;
        let refused = stored.inspect_err(|message| log::error!("{message}")).err();
        self.notices.replace(Notice::Journal, refused.clone());
        refused
    }

    /// Something else started what serves now: its configuration is in no receipt.
    pub(crate) fn forget_configuration(&mut self) {
        self.receipts.forget_configuration();
    }

    /// The configuration of the last generation that was started. `None` if no receipt has it.
    pub(crate) fn served_configuration(&self) -> Option<&Vec<FileDigest>> {
        self.receipts.served_configuration()
    }

    /// Makes the pid file of the service true, and waits for it. A failure is logged.
    pub(crate) async fn write_pid_file(&self) {
        if let (Some(path), Some(pid)) = (self.pid_file_path(), self.pid_to_keep()) {
            self.heartbeat().during(self.pid_file.keep(path, pid)).await;
        }
    }

    /// Removes the pid file if it names the daemon, which ends.
    pub(crate) async fn remove_own_pid_file(&self) {
        if let Some(path) = self.pid_file_path().filter(|_| self.keeps_own_pid()) {
            self.heartbeat().during(self.pid_file.remove(path, std::process::id())).await;
        }
    }

    /// Removes the pid file if it names the process `retired`, or the daemon, which retires its last generation.
    pub(crate) async fn remove_pid_file_of(&self, retired: u32) {
        match self.pid_file_path() {
            Some(path) if !self.keeps_own_pid() => self.heartbeat().during(self.pid_file.remove(path, retired)).await,
            _ => self.remove_own_pid_file().await,
        }
    }

    /// Makes the pid file true beside the loop.
    pub(super) fn follow_pid_file(&mut self) {
        let error = self.pid_file_path().and_then(|_| self.pid_file.error());
        self.notices.replace(Notice::PidFile, error);
        if let (Some(path), Some(pid)) = (self.pid_file_path(), self.pid_to_keep()) {
            self.pid_file.follow(path, pid);
        }
    }

    /// Removes the pid file beside the loop if it names this process, which serves no more.
    pub(super) fn forget_pid(&self, pid: u32) {
        if let Some(path) = self.pid_file_path().filter(|_| !self.keeps_own_pid()) {
            self.pid_file.forget(path, pid);
        }
    }

    fn pid_file_path(&self) -> Option<PathBuf> {
        self.config().pid_file(self.name()).map(Path::to_owned)
    }

    fn pid_to_keep(&self) -> Option<u32> {
        let serving = self.serving()?;
        Some(if self.keeps_own_pid() { std::process::id() } else { serving.process.pid() })
    }

    /// The daemon answers the signals that recipes send to HAProxy's master.
    fn keeps_own_pid(&self) -> bool {
        self.server().answers_runtime_api()
    }

    /// Creates again the files that the server has in its directory, and the record.
    ///
    /// # Errors
    /// If that is impossible.
    pub(crate) fn restore_files(&mut self) -> io::Result<()> {
        self.service.restore_files()?;
        self.record();
        Ok(())
    }
}

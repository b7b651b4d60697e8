//! Drains old unix sockets whose path the new generation binds again (HAProxy before 1.8). It renames its own socket over the old one. The
//! old socket keeps what is queued on it, and the old generation accepts that before it is retired.
//!
//! A drain is not a proof. From 2.3 on HAProxy renames the socket into place a moment before it listens (`sock_unix_bind_receiver`, then
//! `uxst_bind_listener`), and a client that connects in between is refused: 1 or 2 of 6,000 connections in 8 reloads at 2,000/s. Up to 2.2 it
//! listens first (`uxst_bind_listener`). Which of the two a program did cannot be seen afterwards.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::kernel::sock_diag::{self, SockDiagError};
use crate::model::listener::{Address, Listener};
use crate::plan::REFUSES;
use crate::process::run_blocking;
use crate::receipt::{Doubt, ReasonCode, Recorder, Rung, undrained};
use crate::reload::timing::POLL_INTERVAL;
use crate::reload::verdict::Verdict;

/// An old socket whose path now leads to another socket.
pub(crate) struct ReplacedPath {
    old: Listener,
    /// The inode of the socket to which it leads.
    new: u64,
    /// Why it may have lost something.
    doubt: Option<Doubt>,
}

/// The old sockets among the verdicts whose path was bound again.
pub(crate) fn among(verdicts: &[Verdict]) -> Vec<ReplacedPath> {
    let unproven = verdicts.iter().filter(|verdict| verdict.receipt.rung == Rung::Unproven);
    let found = unproven.filter_map(|verdict| Some((verdict.closing.clone()?, verdict.receipt.inode_after?)));
    let paths = found.filter(|(old, _)| matches!(old.endpoint.address, Address::Unix(_)));
    paths.map(|(old, new)| ReplacedPath { doubt: leads_elsewhere(&old, new), old, new }).collect()
}

/// Why the path is not known to lead to the new socket.
fn leads_elsewhere(old: &Listener, new: u64) -> Option<Doubt> {
    let Address::Unix(path) = &old.endpoint.address else { return None };
    let there = fs::metadata(path).map(|found| found.ino() as u32);
    match (there, sock_diag::bound_file(new)) {
        (Ok(there), Ok(Some(file))) if there == file.inode => None,
        (Ok(_), Ok(_)) => Some(Doubt::new(ReasonCode::Diverted, "its path does not lead to the new socket")),
        (Err(error), _) => Some(unobservable(format!("its path cannot be looked at: {error}"))),
        (_, Err(error)) => Some(unobservable(error.to_string())),
    }
}

impl ReplacedPath {
    /// Waits until the old generation has accepted what is queued, no longer than `timeout`.
    pub(crate) async fn drain(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let inode = self.old.inode;
        while self.doubt.is_none() {
            match run_blocking(move || queued(inode)).await {
                Ok(Some(0)) => return,
                Ok(None) => self.doubt = Some(unobservable("it closed before its queue was seen empty".into())),
                Ok(Some(left)) if Instant::now() >= deadline => {
                    let why = format!("{left} connections were left on the old socket");
                    self.doubt = Some(Doubt::new(ReasonCode::Undrained, why));
                }
                Ok(_) => tokio::time::sleep(POLL_INTERVAL).await,
                Err(error) => self.doubt = Some(unobservable(error.to_string())),
            }
        }
    }

    /// The path leads back to the old socket: waits until the new generation has accepted what came to it meanwhile.
    pub(crate) async fn drain_back(&self, timeout: Duration) {
        until_accepted(self.new, timeout).await;
    }

    /// Writes into the receipt what became of its queue.
    pub(crate) fn record(self, recorder: &mut Recorder) {
        let receipt = recorder.receipt();
        for entry in receipt.listeners.iter_mut().filter(|entry| entry.inode_before == Some(self.old.inode)) {
            match &self.doubt {
                None => {
                    entry.doubt(Doubt::new(ReasonCode::PortRefused, REFUSES));
                    (entry.undrained_queue, entry.undrained_half_open) = (Some(0), Some(0));
                }
                Some(doubt) => entry.doubt(doubt.clone()),
            }
        }
        receipt.lost.undrained = undrained(&receipt.listeners);
    }
}

/// Waits until the unix listener with this inode has an empty queue or is closed, no longer than `timeout`.
pub(crate) async fn until_accepted(inode: u64, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline && matches!(run_blocking(move || queued(inode)).await, Ok(Some(1..))) {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn unobservable(why: String) -> Doubt {
    Doubt::new(ReasonCode::Unobservable, why)
}

/// Connections in the accept queue of a unix listener.
fn queued(inode: u64) -> Result<Option<u32>, SockDiagError> {
    let all = sock_diag::unix_listeners()?;
    Ok(all.iter().find(|found| found.inode == inode).map(|found| found.queued))
}

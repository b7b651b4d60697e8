//! Listeners whose socket changes within one SO_REUSEPORT group: the new sockets get all that is new, and what is queued on an old
//! one moves over when that closes, or, on kernels that do not migrate, is drained before.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::aside::aside;
use super::receipt::{ListenerReceipt, Rung};
use super::recorder::Recorder;
use super::retire::undrained;
use crate::custody::Custody;
use crate::gate::steer::{Steer, Trace};
use crate::kernel::sock_diag::SockDiagError;
use crate::kernel::{netstat, sock_diag};
use crate::listener::{Endpoint, Listener};
use crate::process::Handle;
use crate::supervision::Supervisor;

mod groups;
mod handshakes;
mod late;

use groups::{Successor, add, by_endpoint, successors};
use handshakes::{Ends, half_open};

pub(crate) use late::{Unsettled, settle_late, settle_now};

/// The lease outlives all waits of a reload by this time.
const SPARE: Duration = Duration::from_secs(5);

/// A SYN that an old listener was chosen for before the program stood is among the half-open ones after this time.
const IN_FLIGHT: Duration = Duration::from_millis(2);

const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Old listeners that are steered away from.
pub(crate) struct Steered {
    steer: Steer,
    lines: Vec<Line>,
    /// Duplicates of the old sockets.
    from: Vec<Arc<OwnedFd>>,
    /// Duplicates of the new ones, without those that the old generation has too.
    fresh: Vec<Arc<OwnedFd>>,
    patience: Duration,
    failed_before: Option<u64>,
    left_before: Option<u64>,
    /// Handshakes that an old listener may have begun.
    pending: HashSet<Ends>,
    /// The new generation.
    new: Option<Handle>,
    /// It was given up.
    turned_back: bool,
    /// Why the old listeners may have lost something.
    doubt: Option<String>,
}

struct Line {
    old: Listener,
    group: usize,
}

/// Steers away from those of the `old` listeners that have successors in their group; the others are returned.
pub(crate) fn begin(
    supervisor: &mut Supervisor,
    old: Vec<Listener>,
    new: &Custody,
    recorder: &mut Recorder,
) -> (Option<Steered>, Vec<Listener>) {
    let successors = successors(new);
    let (candidates, mut rest): (Vec<_>, Vec<_>) =
        old.into_iter().partition(|listener| successors.contains_key(&listener.endpoint));
    if candidates.is_empty() {
        settle_now(supervisor);
        return (None, rest);
    }
    if supervisor.inherits_steering {
        supervisor.take_over_steering();
    }
    supervisor.unsettled = None;
    let mut steer = match supervisor.steer.take().map_or_else(Steer::load, |mut steer| steer.end(&[]).map(|()| steer)) {
        Ok(steer) => steer,
        Err(error) => {
            recorder.note(error.to_string());
            rest.extend(candidates);
            return (None, rest);
        }
    };
    let to = new.held().iter().map(|held| held.listener.inode).collect();
    match Trace::leave(&supervisor.place, &to) {
        Ok(trace) => steer.keep(trace),
        Err(error) => {
            recorder.note(format!("cannot steer: it cannot be recorded in {}: {error}", supervisor.place.display()));
            supervisor.steer = Some(steer);
            rest.extend(candidates);
            return (None, rest);
        }
    }
    let (mut lines, mut from, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
    for (endpoint, group) in by_endpoint(candidates) {
        let to = &successors[&endpoint];
        match add(&mut steer, &supervisor.custody, &endpoint, &group, to) {
            Ok(added) => {
                lines.extend(group.into_iter().map(|old| Line { old, group: added.place }));
                from.extend(added.from);
                let is_fresh = |successor: &&Successor| supervisor.custody.owner(successor.inode).is_none();
                fresh.extend(to.iter().filter(is_fresh).map(|successor| successor.fd.clone()));
            }
            Err(error) => {
                recorder.note(error);
                rest.extend(group);
            }
        }
    }
    let patience = supervisor.config.reload.drain_timeout;
    if lines.is_empty() {
        if let Err(error) = steer.end(&from) {
            recorder.note(error.to_string());
        }
        supervisor.steer = Some(steer);
        return (None, rest);
    }
    let left_before = steer.left().ok();
    let doubt = steer.renew(patience * 3 + SPARE).err().map(|error| error.to_string());
    let failed_before = failed_migrations();
    let pending = HashSet::new();
    let new = supervisor.starting.as_ref().map(|new| new.process.clone());
    (
        Some(Steered {
            steer,
            lines,
            from,
            fresh,
            patience,
            failed_before,
            left_before,
            pending,
            new,
            turned_back: false,
            doubt,
        }),
        rest,
    )
}

/// Connections that found no listener to move to, since the network namespace exists.
fn failed_migrations() -> Option<u64> {
    netstat::tcp(["TCPMigrateReqFailure"]).map(|[failed]| failed)
}

impl Steered {
    /// Before the old generation is told to close: where the kernel does not migrate, its queues have to be empty.
    pub(crate) async fn drain(&mut self) {
        if self.steer.migrates() {
            return;
        }
        let deadline = Instant::now() + self.patience;
        tokio::time::sleep(IN_FLIGHT).await;
        if let Err(error) = self.note_pending().await {
            return self.doubt = Some(unseen(&error));
        }
        let inodes: HashSet<u64> = self.lines.iter().map(|line| line.old.inode).collect();
        loop {
            match self.still_pending(inodes.clone()).await {
                Err(error) => return self.doubt = Some(unseen(&error)),
                Ok((0, 0)) => return,
                Ok((queued, half_open)) if Instant::now() >= deadline => {
                    return self.doubt = Some(format!(
                        "this kernel does not migrate, and {queued} connections and {half_open} handshakes were left on the old \
                         socket after {}",
                        humantime::format_duration(self.patience)
                    ));
                }
                Ok(_) if self.new.as_ref().is_some_and(|new| new.try_ended().is_some()) => return,
                Ok(_) => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
    }

    /// After the old generation has closed its listeners: a handshake that one of them began is migrated when its client answers,
    /// and the answers that are to be expected belong into the receipt.
    pub(crate) async fn settle(&mut self) {
        // From here on they are the new generation's alone, but for one of each group: what nobody accepts on must not listen.
        self.fresh.clear();
        let from = std::mem::take(&mut self.from);
        if !self.steer.migrates() || self.doubt.is_some() {
            return;
        }
        aside(move || from.iter().for_each(|socket| stop_listening(socket))).await;
        let deadline = Instant::now() + self.patience;
        if let Err(error) = self.note_pending().await {
            return self.doubt = Some(unseen(&error));
        }
        loop {
            match self.still_pending(HashSet::new()).await {
                Err(error) => return self.doubt = Some(unseen(&error)),
                Ok((_, 0)) => return,
                Ok((_, half_open)) if Instant::now() >= deadline => {
                    return self.doubt = Some(format!(
                        "{half_open} handshakes were not done {} after their listener had closed",
                        humantime::format_duration(self.patience)
                    ));
                }
                Ok(_) if self.new.as_ref().is_some_and(|new| new.try_ended().is_some()) => return,
                Ok(_) => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
    }

    async fn note_pending(&mut self) -> Result<(), SockDiagError> {
        let endpoints: Vec<Endpoint> = self.lines.iter().map(|line| line.old.endpoint.clone()).collect();
        self.pending = aside(move || half_open(&endpoints, false)).await?;
        Ok(())
    }

    /// How many connections are queued on these listeners, and how many of the noted handshakes are not done.
    async fn still_pending(&mut self, inodes: HashSet<u64>) -> Result<(u64, usize), SockDiagError> {
        let endpoints: Vec<Endpoint> = self.lines.iter().map(|line| line.old.endpoint.clone()).collect();
        // A connection goes from half-open to the accept queue: read in this order none is missed.
        let (queued, now) = aside(move || {
            let now = half_open(&endpoints, false)?;
            let queues = sock_diag::tcp_listeners()?;
            let queued =
                queues.iter().filter(|found| inodes.contains(&found.inode)).map(|found| u64::from(found.queued));
            Ok::<_, SockDiagError>((queued.sum(), now))
        })
        .await?;
        self.pending.retain(|ends| now.contains(ends));
        Ok((queued, self.pending.len()))
    }

    /// The new generation is given up: from now on the kernel chooses again, and where it migrates, what is queued on the new
    /// sockets goes to the old ones. Elsewhere the new generation accepts what it has.
    pub(crate) fn turn_back(&mut self) {
        self.turned_back = true;
        if let Err(error) = self.steer.renew(Duration::ZERO) {
            log::error!("{error}");
        }
        let fresh = std::mem::take(&mut self.fresh);
        if self.steer.migrates() {
            fresh.iter().for_each(|socket| stop_listening(socket));
        } else if let Err(error) = self.steer.end(&self.from) {
            log::error!("{error}");
        }
    }

    /// What stands against a proof by now.
    pub(crate) fn doubts(&self) -> Option<String> {
        let first = self.lines.first()?;
        self.doubt.as_ref().map(|doubt| format!("{}: {doubt}", first.old.endpoint))
    }

    /// The old generation was told to close its listeners, and was not seen to do so.
    pub(crate) fn doubt_the_close(&mut self) {
        self.doubt = Some("the old generation has not closed it yet: what it queues from now on is lost".into());
    }

    /// Whether the old listener with this inode is steered away from.
    pub(crate) fn covers(&self, inode: Option<u64>) -> bool {
        self.lines.iter().any(|line| Some(line.old.inode) == inode)
    }

    /// Takes the program off and writes into the receipt what became of the connections.
    pub(crate) fn release(mut self, supervisor: &mut Supervisor, recorder: &mut Recorder) {
        if self.turned_back {
            match self.steer.end(&self.from) {
                Ok(()) => supervisor.steer = Some(self.steer),
                Err(error) => recorder.note(error.to_string()),
            }
            return;
        }
        let doubt = self.doubt.take().or_else(|| self.losses());
        let mut listed = HashSet::new();
        for line in &self.lines {
            let counts = self.steer.counts(line.group).ok();
            let entries = &mut recorder.receipt().listeners;
            let Some(entry) = entries.iter_mut().find(|entry| entry.inode_before == Some(line.old.inode)) else {
                continue;
            };
            // The program counts by group: the figure stands at the first of its listeners.
            let migrated = counts.map(|counts| if listed.insert(line.group) { counts.migrated } else { 0 });
            judge_steered(entry, self.steer.migrates(), migrated, doubt.clone());
        }
        let receipt = recorder.receipt();
        receipt.lost.undrained = undrained(&receipt.listeners);
        if let Err(error) = self.steer.renew(Duration::ZERO) {
            recorder.note(error.to_string());
        }
        let endpoints = self.lines.into_iter().map(|line| line.old.endpoint).collect();
        supervisor.unsettled = self.steer.migrates().then_some(Unsettled { endpoints, pending: None });
        supervisor.steer = Some(self.steer);
        settle_late(supervisor);
    }

    /// What the kernel counted of connections that went another way.
    fn losses(&mut self) -> Option<String> {
        if self.new.as_ref().is_some_and(|new| new.try_ended().is_some()) {
            return Some("the new generation has ended".into());
        }
        if !self.steer.stands() {
            return Some("somebody else took the program off the reuseport group".into());
        }
        if !self.steer.migrates() {
            let left = self.steer.left().ok().zip(self.left_before).map(|(now, before)| now - before);
            return match left {
                Some(0) => None,
                Some(left) => Some(format!(
                    "{left} connections were left to the kernel's choice, and may have gone to the old socket"
                )),
                None => Some("it could not be read whether all connections were steered".into()),
            };
        }
        match failed_migrations().zip(self.failed_before).map(|(now, before)| now - before) {
            Some(0) => None,
            Some(failed) => {
                Some(format!("{failed} connections did not move over: the new socket's accept queue was full"))
            }
            None => Some("the kernel does not tell whether all connections moved over (TCPMigrateReqFailure)".into()),
        }
    }
}

/// The queue moves now, and not when whoever closed the socket comes round to its release, long after its descriptor is gone
/// from /proc: shutdown(2) runs `inet_csk_listen_stop` before it returns, or waits for whoever runs it.
fn stop_listening(socket: &OwnedFd) {
    match rustix::net::shutdown(socket, rustix::net::Shutdown::Both) {
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => {}
        Err(error) => log::error!("a listener was not stopped: {error}"),
    }
}

fn unseen(error: &SockDiagError) -> String {
    format!("it could not be seen what was left on the old socket: {error}")
}

/// The verdict on a listener that was steered away from.
fn judge_steered(entry: &mut ListenerReceipt, migrates: bool, migrated: Option<u64>, doubt: Option<String>) {
    entry.migrated = migrated.filter(|_| migrates);
    if entry.rung != Rung::Unproven {
        return;
    }
    if doubt.is_none() {
        entry.rung = Rung::Steered;
        // What was in its queue has moved, or there was nothing.
        (entry.undrained_queue, entry.undrained_half_open) = (Some(0), Some(0));
    }
    // Without a doubt it stays with why the socket was not passed.
    entry.why = doubt.or(entry.why.take());
}

//! Steers between two sockets of one SO_REUSEPORT group. The new socket gets all new connections. What is queued on the old one moves over when
//! that closes; on kernels that do not migrate it is drained before.

mod answers;
pub(in crate::reload) mod groups;
pub(in crate::reload) mod loan;
mod losses;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use humantime::FormattedDuration;

use self::losses::{Counters, lost_by_migration, lost_by_selection};
use super::deferral::deferral_as_cause;
use crate::gate::steer::Steer;
use crate::kernel::sock_diag::{Endpoints, SockDiagError};
use crate::model::listener::Listener;
use crate::process::{Handle, run_blocking};
use crate::receipt::{Doubt, ListenerReceipt, ReasonCode, Recorder, Rung, undrained};
use crate::reload::steps::stop_listening::stop_listening;
use crate::reload::timing::{IN_FLIGHT, POLL_INTERVAL};
use crate::supervision::Supervisor;
use crate::supervision::steering::{ClosingListeners, PendingHandshakes};

/// Old listeners that are steered away from.
pub(crate) struct SteeredListeners {
    steer: Steer,
    lines: Vec<Line>,
    old: Arc<ClosingListeners>,
    /// Duplicates of the old sockets.
    from: Vec<Arc<OwnedFd>>,
    /// Duplicates of the new sockets, except those that the old generation has too.
    fresh: Vec<Arc<OwnedFd>>,
    timeout: Duration,
    /// How long handshakes may wait for their clients' first data. This wait delays no client: new connections go elsewhere.
    deferral: Duration,
    before: Counters,
    /// The new generation.
    new: Option<Handle>,
    /// The new generation was given up.
    rolled_back: bool,
    /// Why the old listeners may have lost something.
    doubt: Option<Doubt>,
}

struct Line {
    old: Listener,
    group: usize,
}

impl SteeredListeners {
    /// Takes the deferral out of all waits, because other listeners are held: their clients would wait as long.
    pub(crate) fn wait_for_no_deferral(&mut self) {
        self.deferral = Duration::ZERO;
    }

    /// Before the old generation is asked to close: where the kernel does not migrate, its queues have to be empty. An old generation that does
    /// not finish what it has accepted, with the process `unfinished`, has to answer first. Returns a sentence where it has not.
    pub(crate) async fn drain(&mut self, unfinished: Option<u32>) -> Option<String> {
        let migrates = self.steer.migrates();
        let given_up = match unfinished {
            Some(root) => answers::until_answered(&self.old, root, migrates, self.timeout).await,
            None => None,
        };
        if migrates {
            return given_up;
        }
        tokio::time::sleep(IN_FLIGHT).await;
        // What was left to the kernel before the program was attached is in an old queue, or in a new one.
        self.before = Counters::read(&mut self.steer);
        self.until_nothing_is_left(ClosingListeners::queued, |queued, half_open, timeout| {
            format!(
                "this kernel does not migrate, and {queued} connections and {half_open} handshakes were left on the old \
                 socket after {timeout}"
            )
        })
        .await;
        given_up
    }

    /// After the old generation has closed its listeners: waits for the handshakes that they began. The program migrates each when its client
    /// answers, and the receipt is to count those answers.
    pub(crate) async fn settle(&mut self) {
        // The daemon keeps one socket of each group only: a socket that no process accepts on must not listen.
        self.fresh.clear();
        let from = std::mem::take(&mut self.from);
        if !self.steer.migrates() || self.doubt.is_some() {
            return;
        }
        run_blocking(move || from.iter().for_each(|socket| stop_listening(socket))).await;
        self.until_handshakes_are_done().await;
    }

    /// As [`until_nothing_is_left`](Self::until_nothing_is_left), for sockets that are closed: what was in their queues has moved already.
    async fn until_handshakes_are_done(&mut self) {
        let closed_have_no_queue = |_: &ClosingListeners| Ok(0);
        self.until_nothing_is_left(closed_have_no_queue, |_, half_open, timeout| {
            format!("{half_open} handshakes were not done {timeout} after their listener had closed")
        })
        .await;
    }

    /// Waits until nothing is queued on the old listeners any more and the handshakes that they have begun are done. What is
    /// left at the timeout is a doubt, which `left` puts into words.
    async fn until_nothing_is_left(
        &mut self,
        queued: fn(&ClosingListeners) -> Result<u64, SockDiagError>,
        left: impl Fn(u64, usize, FormattedDuration) -> String,
    ) {
        let began = Instant::now();
        let mut awaited: Option<HashSet<Endpoints>> = None;
        loop {
            let old = self.old.clone();
            // A connection goes from half-open to the accept queue: read in this order, each is seen.
            let look = move || old.half_open(false).and_then(|half_open| Ok((half_open, queued(&old)?)));
            let (half_open, queued) = match run_blocking(look).await {
                Ok(found) => found,
                Err(error) => return self.doubt = Some(unseen(&error)),
            };
            let awaited = awaited.get_or_insert_with(|| half_open.clone());
            awaited.retain(|ends| half_open.contains(ends));
            if queued == 0 && awaited.is_empty() {
                return;
            }
            let timeout = if awaited.is_empty() { self.timeout } else { self.timeout + self.deferral };
            if began.elapsed() >= timeout {
                let cause = deferral_as_cause(!self.deferral.is_zero() && !awaited.is_empty());
                let why = left(queued, awaited.len(), humantime::format_duration(timeout)) + cause;
                return self.doubt = Some(Doubt::new(ReasonCode::Undrained, why));
            }
            if !self.rolled_back && self.new_has_ended() {
                return;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn new_has_ended(&self) -> bool {
        self.new.as_ref().is_some_and(|new| new.try_ended().is_some())
    }

    /// The new generation is given up: from now on the kernel chooses again, and where it migrates, what is queued on the new
    /// sockets goes to the old ones, and so do the handshakes that these have begun. Elsewhere the new generation accepts what it has.
    pub(crate) async fn roll_back(&mut self) {
        self.rolled_back = true;
        if let Err(error) = self.steer.renew(Duration::ZERO) {
            log::error!("{error}");
        }
        let fresh = std::mem::take(&mut self.fresh);
        if self.steer.migrates() {
            run_blocking(move || fresh.iter().for_each(|socket| stop_listening(socket))).await;
            self.until_handshakes_are_done().await;
        } else if let Err(error) = self.steer.end(&self.from) {
            log::error!("{error}");
        }
    }

    /// The doubt about a proof, as far as it is known by now.
    pub(crate) fn doubts(&self) -> Option<Doubt> {
        let first = self.lines.first()?;
        self.doubt.as_ref().map(|doubt| doubt.about(&first.old.endpoint))
    }

    /// Notes a doubt: the old generation was asked to close its listeners, and was not seen to close them.
    pub(crate) fn doubt_the_close(&mut self) {
        self.doubt = Some(super::held::still_open());
    }

    /// Whether the old listener with this inode is steered away from.
    pub(crate) fn covers(&self, inode: Option<u64>) -> bool {
        self.lines.iter().any(|line| Some(line.old.inode) == inode)
    }

    /// Takes the program off and writes into the receipt what became of the connections.
    pub(crate) fn release(mut self, supervisor: &mut Supervisor, recorder: &mut Recorder) {
        if self.rolled_back {
            match self.steer.end(&self.from) {
                Ok(()) => supervisor.give_back_steering(self.steer, None),
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
        let pending = self.steer.migrates().then(|| PendingHandshakes::new(self.old));
        supervisor.give_back_steering(self.steer, pending);
        supervisor.detach_steering_when_idle();
    }

    /// What the kernel counted of connections that went another way.
    fn losses(&mut self) -> Option<Doubt> {
        if self.new_has_ended() {
            return Some(Doubt::new(ReasonCode::StartFailed, "the new generation has ended"));
        }
        if !self.steer.is_still_attached() {
            let why = "another process took the program off the reuseport group";
            return Some(Doubt::new(ReasonCode::Diverted, why));
        }
        let now = Counters::read(&mut self.steer);
        if self.steer.migrates() { lost_by_migration(self.before, now) } else { lost_by_selection(self.before, now) }
    }
}

fn unseen(error: &SockDiagError) -> Doubt {
    let why = format!("it could not be seen what was left on the old socket: {error}");
    Doubt::new(ReasonCode::Unobservable, why)
}

/// The verdict on a listener that was steered away from.
fn judge_steered(entry: &mut ListenerReceipt, migrates: bool, migrated: Option<u64>, doubt: Option<Doubt>) {
    entry.migrated = migrated.filter(|_| migrates);
    if entry.rung != Rung::Unproven {
        return;
    }
    match doubt {
        Some(doubt) => entry.doubt(doubt),
        None => {
            entry.prove(Rung::Steered);
            // What was in its queue has moved, or there was nothing.
            (entry.undrained_queue, entry.undrained_half_open) = (Some(0), Some(0));
        }
    }
}

//! Listeners whose socket changes within one SO_REUSEPORT group: the new sockets get all that is new, and what is queued on an old
//! one moves over when that closes, or, on kernels that do not migrate, is drained before.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::aside::aside;
use super::receipt::{ListenerReceipt, Rung};
use super::recorder::Recorder;
use super::retire::undrained;
use crate::custody::Custody;
use crate::gate::steer::{Group, Steer, SteerError, Trace};
use crate::kernel::sock_diag::SockDiagError;
use crate::kernel::{devices, netstat, sock_diag};
use crate::listener::{Address, Endpoint, Listener};
use crate::process::Handle;
use crate::supervision::Supervisor;

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
    /// Duplicates of those that only the new generation has.
    fresh: Vec<Arc<OwnedFd>>,
    patience: Duration,
    failed_before: Option<u64>,
    left_before: Option<u64>,
    /// Handshakes that an old listener may have begun.
    pending: HashSet<Ends>,
    /// Why the old listeners may have lost something.
    doubt: Option<String>,
}

type Ends = (SocketAddr, SocketAddr);

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
        return (None, rest);
    }
    supervisor.unsettled = None;
    let mut steer = match supervisor.steer.take().map_or_else(Steer::load, |mut steer| steer.end().map(|()| steer)) {
        Ok(steer) => steer,
        Err(error) => {
            recorder.note(error.to_string());
            rest.extend(candidates);
            return (None, rest);
        }
    };
    let to = new.held().iter().map(|held| held.listener.inode).collect();
    match Trace::leave(&supervisor.config.runtime_dir, &to) {
        Ok(trace) => steer.keep(trace),
        Err(error) => {
            recorder.note(format!(
                "cannot steer: it cannot be recorded in {}: {error}",
                supervisor.config.runtime_dir.display()
            ));
            supervisor.steer = Some(steer);
            rest.extend(candidates);
            return (None, rest);
        }
    }
    let fresh = new.held().iter().filter(|held| supervisor.custody.owner(held.listener.inode).is_none());
    let fresh: Vec<Arc<OwnedFd>> =
        fresh.filter(|held| held.listener.endpoint.is_tcp_here()).map(|held| held.fd.clone()).collect();
    let (mut lines, mut from) = (Vec::new(), Vec::new());
    for (endpoint, group) in by_endpoint(candidates) {
        match add(&mut steer, &supervisor.custody, &endpoint, &group, &successors[&endpoint]) {
            Ok((place, duplicates)) => {
                lines.extend(group.into_iter().map(|old| Line { old, group: place }));
                from.extend(duplicates);
            }
            Err(error) => {
                recorder.note(error);
                rest.extend(group);
            }
        }
    }
    let patience = supervisor.config.reload.drain_timeout;
    if lines.is_empty() {
        if let Err(error) = steer.end() {
            recorder.note(error.to_string());
        }
        supervisor.steer = Some(steer);
        return (None, rest);
    }
    let left_before = steer.left().ok();
    let doubt = steer.renew(patience * 3 + SPARE).err().map(|error| error.to_string());
    let failed_before = failed_migrations();
    let pending = HashSet::new();
    (Some(Steered { steer, lines, from, fresh, patience, failed_before, left_before, pending, doubt }), rest)
}

/// The new generation's sockets by where they listen.
fn successors(new: &Custody) -> HashMap<Endpoint, Vec<Arc<OwnedFd>>> {
    let mut listed = HashSet::new();
    let mut found: HashMap<Endpoint, Vec<Arc<OwnedFd>>> = HashMap::new();
    for held in new.held().iter().filter(|held| listed.insert(held.listener.inode)) {
        found.entry(held.listener.endpoint.clone()).or_default().push(held.fd.clone());
    }
    found
}

fn by_endpoint(listeners: Vec<Listener>) -> Vec<(Endpoint, Vec<Listener>)> {
    let mut groups: Vec<(Endpoint, Vec<Listener>)> = Vec::new();
    for listener in listeners {
        match groups.iter_mut().find(|(endpoint, _)| *endpoint == listener.endpoint) {
            Some((_, group)) => group.push(listener),
            None => groups.push((listener.endpoint.clone(), vec![listener])),
        }
    }
    groups
}

fn add(
    steer: &mut Steer,
    custody: &Custody,
    endpoint: &Endpoint,
    old: &[Listener],
    to: &[Arc<OwnedFd>],
) -> Result<(usize, Vec<Arc<OwnedFd>>), String> {
    let Address::Inet(address) = endpoint.address else { return Err(format!("cannot steer {endpoint}")) };
    let interface = match &endpoint.interface {
        Some(name) => device_number(name).ok_or_else(|| format!("cannot steer {endpoint}: {name} is gone"))?,
        None => 0,
    };
    let from: Vec<Arc<OwnedFd>> = old.iter().map(|listener| duplicate(custody, listener)).collect::<Result<_, _>>()?;
    let sockets = from.iter().map(|fd| fd.as_fd()).collect();
    let group = Group { address, v6only: endpoint.v6only, interface, to: to.to_vec(), from: sockets };
    let place = steer.add(&group).map_err(|error: SteerError| error.to_string())?;
    Ok((place, from))
}

fn device_number(name: &str) -> Option<u32> {
    Some(devices::list().ok()?.into_iter().find(|device| device.name == name)?.index)
}

/// What is in custody, or a duplicate of what the old generation has.
fn duplicate(custody: &Custody, listener: &Listener) -> Result<Arc<OwnedFd>, String> {
    if let Some(held) = custody.held().iter().find(|held| held.listener.inode == listener.inode) {
        return Ok(held.fd.clone());
    }
    let unseen = || format!("cannot steer {}: the old generation's socket cannot be found", listener.endpoint);
    let owner = custody.owner(listener.inode).ok_or_else(unseen)?;
    let fd = Handle::duplicate(owner).map_err(|error| format!("cannot steer {}: {error}", listener.endpoint))?;
    match rustix::fs::fstat(&fd) {
        Ok(found) if found.st_ino == listener.inode => Ok(Arc::new(fd)),
        _ => Err(unseen()),
    }
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
                Ok(_) => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
    }

    /// After the old generation has closed its listeners: a handshake that one of them began is migrated when its client answers,
    /// and the answers that are to be expected belong into the receipt.
    pub(crate) async fn settle(&mut self) {
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
        if let Err(error) = self.steer.renew(Duration::ZERO) {
            log::error!("{error}");
        }
        if self.steer.migrates() {
            self.fresh.iter().for_each(|socket| stop_listening(socket));
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

/// Handshakes of closed listeners that wait for a slow client, or for one whose ACK came while the accept queue was full: they
/// are migrated as long as the program stands, which does nothing else any more.
pub(crate) struct Unsettled {
    endpoints: Vec<Endpoint>,
    pending: Option<HashSet<Ends>>,
}

/// Takes the program off once nothing waits for it any more. Due about once a second.
pub(crate) fn settle_late(supervisor: &mut Supervisor) {
    if let Some(unsettled) = &mut supervisor.unsettled {
        let now = half_open(&unsettled.endpoints, true).unwrap_or_default();
        let pending = unsettled.pending.get_or_insert_with(|| now.clone());
        pending.retain(|ends| now.contains(ends));
        if !pending.is_empty() {
            return;
        }
        supervisor.unsettled = None;
    }
    if let Some(Err(error)) = supervisor.steer.as_mut().map(Steer::end) {
        log::error!("{error}");
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

/// Handshakes on these addresses: without the `late` ones those whose SYN-ACK was sent once only.
fn half_open(endpoints: &[Endpoint], late: bool) -> Result<HashSet<Ends>, SockDiagError> {
    let pending = sock_diag::half_open(0)?;
    let awaited = pending.into_iter().filter(|found| {
        (late || found.retransmits == 0) && endpoints.iter().any(|endpoint| endpoint.covers(found.local))
    });
    Ok(awaited.map(|found| (found.local, found.remote)).collect())
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

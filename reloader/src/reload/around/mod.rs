//! Holds SYNs around a command that stops one server and starts another: `reloader hold --listen ADDR:PORT -- CMD`.

mod listen;
mod presence;
mod proof;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::mpsc::UnboundedReceiver;

use self::presence::{Presence, Stand, stand};
use super::drain::{self, Drain};
use super::held;
use super::receipt::{Kind, Receipt};
use super::recorder::{Failure, Recorder};
use crate::gate::hold::{Backend, Exception, Hold, HoldError, Wanted};
use crate::kernel::sock_diag::{self, ListenSocket, SockDiagError};
use crate::listener::Address;
use crate::process::{self, Handle, ProcessError};
use crate::sys::Inheritance;

pub use listen::{ListenError, parse as parse_listen};

/// No event tells that another process listens: this often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Whose hands a socket is in takes a look at every process: this often while only the old one is there.
const OWNERS_INTERVAL: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Debug)]
pub struct Around {
    /// What to hold, each with all addresses that it stands for.
    pub listen: Vec<Vec<SocketAddr>>,
    /// The gate; `None` for the best that can be had.
    pub backend: Option<Backend>,
    /// The longest hold.
    pub max: Duration,
    /// Bytes of room for parked SYNs.
    pub capacity: u32,
    /// Where the hold is put on record.
    pub runtime_dir: PathBuf,
    /// The network namespace, where it was named.
    pub netns_path: Option<PathBuf>,
    /// This program, of which the guard is a command.
    pub program: PathBuf,
    /// What the guard is started with.
    pub inheritance: Inheritance,
}

/// A signal that came.
#[derive(Debug, Clone, Copy)]
pub struct Caught {
    /// Which one.
    pub signal: Signal,
    /// The terminal sent it to the command as well.
    pub reached_command: bool,
}

impl Caught {
    /// Sends it to the command, unless that has it already: many programs take a second one for impatience.
    pub fn pass_on(self, command: &Handle) {
        if !self.reached_command {
            command.signal(self.signal);
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The record.
    pub receipt: Receipt,
    /// The command, which may run on.
    pub command: Handle,
    /// A held port had no listener when the hold ended.
    pub nothing_listens: bool,
    /// A signal ended it.
    pub was_interrupted: bool,
}

/// Why the command was not run, or not under a hold.
#[derive(Debug, thiserror::Error)]
pub enum AroundError {
    /// The sockets cannot be listed.
    #[error(transparent)]
    SockDiag(#[from] SockDiagError),
    /// Nothing can be held.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// A signal came before the command was started. The hold was released.
    #[error("the command was not run: signal {} came first", .0.as_raw())]
    Interrupted(Signal),
    /// The command does not start. The hold was released.
    #[error(transparent)]
    Command(ProcessError),
}

/// Holds, drains, runs the command, waits for new listeners, releases. A signal from `signals` releases at once and is passed
/// on to the command.
///
/// # Errors
/// Where the hold does not come about or the command does not start; nothing is held then.
pub async fn run(
    around: Around,
    mut command: Command,
    signals: &mut UnboundedReceiver<Caught>,
    tell: &dyn Fn(&str),
) -> Result<Outcome, AroundError> {
    let max = around.max;
    let mut recorder = Recorder::begin(Kind::Hold, Instant::now(), 0, None);
    let sockets = sock_diag::tcp_listeners()?;
    let window = Window::new(&presence::meant(&around.listen, &sockets), sockets);
    recorder.phase(|phases| &mut phases.plan);

    tell("holding");
    let hold = begin(around, &window).await?;
    hold.armed().notes.iter().for_each(|note| recorder.note(note));
    let ends = hold.armed().at + max;
    recorder.phase(|phases| &mut phases.guard);

    tell("draining");
    let held = window.held.iter().map(proof::endpoint).collect();
    let mut drain = Drain::begin(window.before.listeners(), held, &window.exceptions, recorder.cookies());
    tokio::select! {
        // A signal that has come already counts.
        biased;
        Some(caught) = signals.recv() => return Err(AroundError::Interrupted(caught.signal)),
        () = drain.until_empty(true) => {}
        () = tokio::time::sleep_until(ends.into()) => {}
    }
    proof::note_unanswered(&drain, &mut recorder);
    recorder.phase(|phases| &mut phases.drain);

    tell("running the command");
    let command = Handle::spawn(&mut command).map_err(AroundError::Command)?;
    let waited = window.wait(&command, &hold, &mut drain, ends, signals).await;
    recorder.phase(|phases| &mut phases.start);

    tell("releasing");
    let backend = hold.armed().backend;
    let ended = held::release(hold).await;
    recorder.phase(|phases| &mut phases.release);
    // The command runs or has run: what cannot be seen any more is a doubt, and its status counts all the same.
    let now = window.now().unwrap_or_else(|_| window.before.clone());
    let nothing_listens = !matches!(waited, Waited::Blind(_)) && now.of.iter().any(Vec::is_empty);
    proof::record(&mut recorder, &window, &now, &drain, &waited, backend, &ended);
    let failed = proof::failure(&waited, nothing_listens).map(Failure::new);
    let receipt = recorder.finish(failed.map_or(Ok(()), Err));
    let was_interrupted = matches!(waited, Waited::Signal(_));
    Ok(Outcome { receipt, command, nothing_listens, was_interrupted })
}

async fn begin(around: Around, window: &Window) -> Result<Hold, AroundError> {
    let wanted = Wanted {
        targets: window.held.clone(),
        exceptions: window.exceptions.clone(),
        backend: around.backend,
        capacity: around.capacity,
        max: around.max,
        netns_path: around.netns_path,
        runtime_dir: around.runtime_dir,
        program: around.program,
        inheritance: around.inheritance,
    };
    Ok(held::begin(wanted).await?)
}

/// Why the wait for a new listener ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Waited {
    /// Each port has a new listener, and the old ones are closed.
    New,
    /// Each port has a new listener, but some old ones are there still.
    Both,
    /// The command failed, and each port has a listener.
    Failed(process::Ended),
    /// The hold ended: its time was over, or somebody released it.
    TimeOver,
    /// A signal.
    Signal(Signal),
    /// The kernel did not list the listeners.
    Blind(String),
}

/// The bind window, as far as it can be seen.
struct Window {
    targets: Vec<SocketAddr>,
    held: Vec<crate::gate::hold::Target>,
    exceptions: Vec<Exception>,
    before: Presence,
    owners_before: HashMap<u64, HashSet<u32>>,
}

impl Window {
    fn new(targets: &[SocketAddr], sockets: Vec<ListenSocket>) -> Window {
        let ports: HashSet<u16> = targets.iter().map(SocketAddr::port).collect();
        let on_ports = |found: &&ListenSocket| matches!(found.address, Address::Inet(a) if ports.contains(&a.port()));
        let inodes: HashSet<u64> = sockets.iter().filter(on_ports).map(|found| found.inode).collect();
        let owners_before = process::holders_of(&inodes);
        let all = Presence::new(targets, &sockets);
        let exceptions = presence::exceptions(&all, &sockets, &owners_before, targets);
        let held = presence::held(targets, &sockets);
        let mut window =
            Window { targets: targets.to_vec(), held, exceptions, before: Presence::default(), owners_before };
        window.before = window.among(sockets);
        window
    }

    fn now(&self) -> Result<Presence, SockDiagError> {
        Ok(self.among(sock_diag::tcp_listeners()?))
    }

    fn among(&self, mut sockets: Vec<ListenSocket>) -> Presence {
        let excepted =
            |found: &ListenSocket| Exception::of(found).is_some_and(|found| self.exceptions.contains(&found));
        sockets.retain(|found| !excepted(found));
        Presence::new(&self.targets, &sockets)
    }

    async fn wait(
        &self,
        command: &Handle,
        hold: &Hold,
        drain: &mut Drain,
        ends: Instant,
        signals: &mut UnboundedReceiver<Caught>,
    ) -> Waited {
        let (mut both_since, mut partly_since) = (None, None);
        let mut owners = Owners::default();
        loop {
            if hold.has_ended() || Instant::now() >= ends {
                return Waited::TimeOver;
            }
            let now = match self.now() {
                Ok(now) => now,
                Err(error) => return Waited::Blind(error.to_string()),
            };
            let standing = stand(&self.before, &now, &self.owners_before, owners.of(self, command));
            match (standing, command.try_ended()) {
                (Stand::New, _) => {
                    drain.look(false).await;
                    return Waited::New;
                }
                // What listened before and is not there yet may come until the command has ended, and a moment longer.
                (Stand::Partly, Some(_)) if partly_since.get_or_insert_with(Instant::now).elapsed() >= drain::CAP => {
                    drain.look(false).await;
                    return Waited::New;
                }
                (Stand::Both, _) if both_since.get_or_insert_with(Instant::now).elapsed() >= drain::CAP => {
                    drain.look(false).await;
                    return Waited::Both;
                }
                (Stand::Before | Stand::Both, Some(ended)) if ended != process::Ended::Exited(0) => {
                    return Waited::Failed(ended);
                }
                (Stand::Missing, _) => {}
                // Somebody listens: who connects does so by a way that is not held.
                _ => drain.look(false).await,
            }
            tokio::select! {
                Some(caught) = signals.recv() => {
                    caught.pass_on(command);
                    return Waited::Signal(caught.signal);
                }
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }
}

/// Who holds the old sockets now, looked at now and then, and only when the command has ended: until then whoever has one may
/// be a child that the old server forked.
#[derive(Default)]
struct Owners {
    looked: Option<Instant>,
    found: HashMap<u64, HashSet<u32>>,
}

impl Owners {
    fn of(&mut self, window: &Window, command: &Handle) -> &HashMap<u64, HashSet<u32>> {
        let due = self.looked.is_none_or(|looked| looked.elapsed() >= OWNERS_INTERVAL);
        if due && command.try_ended().is_some() {
            self.looked = Some(Instant::now());
            let inodes = window.before.listeners().iter().map(|listener| listener.inode).collect();
            self.found = process::holders_of(&inodes);
            for (inode, pids) in &mut self.found {
                let before = window.owners_before.get(inode);
                // What an old server forks is no new server; but under init every process is a descendant.
                let forked = |pid: u32, old: u32| old != 1 && pid != old && process::is_descendant(pid, old);
                pids.retain(|pid| before.is_none_or(|old| !old.iter().any(|old| forked(*pid, *old))));
            }
        }
        &self.found
    }
}

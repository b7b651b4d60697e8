//! Watches the bind window: from before the command until each `--listen` has its new listener.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::mpsc::UnboundedReceiver;

use super::caught_signal::CaughtSignal;
use super::listen::Listen;
use super::presence::{ListenerTransition, Presence, transition};
use super::targets::{self, RequestedListener};
use crate::gate::hold::{Exception, Hold, Target};
use crate::kernel::sock_diag::{self, ListenSocket, SockDiagError};
use crate::model::listener::Endpoint;
use crate::process::{self, Handle};
use crate::reload::drain::{self, Drain};

/// No event tells that another process listens.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// How often the owners of the old sockets are looked for while there are no new ones. Each search reads all processes.
const OWNERS_INTERVAL: Duration = Duration::from_millis(100);

/// Why the wait for a new listener ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Waited {
    /// Each `--listen` has a new listener, and the old ones are closed.
    New,
    /// Each `--listen` has a new listener, but some old listeners are still open.
    Both,
    /// The command failed, and each `--listen` has a listener.
    Failed(process::Ended),
    /// The hold ended: its time was over, or it was released.
    TimeOver,
    /// A signal.
    Signal(Signal),
    /// The kernel did not list the listeners.
    Blind(String),
}

/// A command that runs under a hold.
#[derive(Clone, Copy)]
pub(super) struct HeldCommand<'a> {
    pub(super) command: &'a Handle,
    pub(super) hold: &'a Hold,
    /// When the hold ends by itself.
    pub(super) ends: Instant,
}

/// The listeners whose SYNs are held, and their state before the command.
pub(super) struct BindWindow {
    pub(super) places: Vec<RequestedListener>,
    /// The `--listen` arguments, in their order.
    names: Vec<String>,
    pub(super) targets: Vec<Target>,
    pub(super) exceptions: Vec<Exception>,
    pub(super) before: Presence,
    owners_before: HashMap<u64, HashSet<u32>>,
}

impl BindWindow {
    pub(super) fn new(listen: &[Listen], mut sockets: Vec<ListenSocket>) -> BindWindow {
        let places = targets::places(listen, &sockets);
        let inodes = Presence::new(&places, &sockets).listeners().iter().map(|found| found.inode).collect();
        let owners_before = process::holders_of(&inodes);
        let exceptions = targets::exceptions(&places, &sockets, &owners_before);
        leave_out(&exceptions, &mut sockets);
        let targets = targets::targets(&places, &sockets);
        let before = Presence::new(&places, &sockets);
        let names = listen.iter().map(Listen::to_string).collect();
        BindWindow { places, names, targets, exceptions, before, owners_before }
    }

    /// Where SYNs are held.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.places.iter().flat_map(|place| &place.endpoints)
    }

    pub(super) fn now(&self) -> Result<Presence, SockDiagError> {
        let mut sockets = sock_diag::tcp_listeners()?;
        leave_out(&self.exceptions, &mut sockets);
        Ok(Presence::new(&self.places, &sockets))
    }

    /// The `--listen` arguments without a listener, in words.
    pub(super) fn without_listener(&self, now: &Presence) -> Option<String> {
        let unserved = self.names.iter().zip(&now.listeners_of).filter(|(_, listeners)| listeners.is_empty());
        let names: Vec<&str> = unserved.map(|(name, _)| name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Waits for listeners after the hold, while the command still runs. Ends when the command has ended and [`drain::DRAIN_TIMEOUT`] has passed
    /// since.
    pub(super) async fn wait_unheld(
        &self,
        command: &Handle,
        ends: Instant,
        signals: &mut UnboundedReceiver<CaughtSignal>,
    ) {
        let mut ended_since = None;
        while Instant::now() < ends {
            if command.try_ended().is_some()
                && ended_since.get_or_insert_with(Instant::now).elapsed() >= drain::DRAIN_TIMEOUT
            {
                return;
            }
            if self.now().is_ok_and(|now| self.without_listener(&now).is_none()) {
                return;
            }
            tokio::select! {
                Some(caught) = signals.recv() => caught.pass_on(command),
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    }

    pub(super) async fn wait(
        &self,
        HeldCommand { command, hold, ends }: HeldCommand<'_>,
        drain: &mut Drain,
        signals: &mut UnboundedReceiver<CaughtSignal>,
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
            let standing = transition(&self.before, &now, &self.owners_before, owners.of(self, command));
            match (standing, command.try_ended()) {
                (ListenerTransition::New, _) => {
                    drain.look(false).await;
                    return Waited::New;
                }
                // A missing listener is waited for until the command has ended, and for DRAIN_TIMEOUT after that.
                (ListenerTransition::Partly, Some(_))
                    if partly_since.get_or_insert_with(Instant::now).elapsed() >= drain::DRAIN_TIMEOUT =>
                {
                    drain.look(false).await;
                    return Waited::New;
                }
                (ListenerTransition::Both, _)
                    if both_since.get_or_insert_with(Instant::now).elapsed() >= drain::DRAIN_TIMEOUT =>
                {
                    drain.look(false).await;
                    return Waited::Both;
                }
                (ListenerTransition::Before | ListenerTransition::Both, Some(ended))
                    if ended != process::Ended::Exited(0) =>
                {
                    return Waited::Failed(ended);
                }
                (ListenerTransition::Missing, _) => {}
                // There is a listener. A client that connects now comes by a way that the hold does not cover.
                _ => drain.look(false).await,
            }
            tokio::select! {
                Some(caught) = signals.recv() => {
                    caught.pass_on(command);
                    return Waited::Signal(caught.signal);
                }
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    }
}

fn leave_out(exceptions: &[Exception], sockets: &mut Vec<ListenSocket>) {
    sockets.retain(|found| !Exception::from_listener(found).is_some_and(|found| exceptions.contains(&found)));
}

/// The processes that have the old sockets now. They are read at intervals, and only after the command has ended. Before that, a new owner may
/// be a child that the old server forked.
#[derive(Default)]
struct Owners {
    looked: Option<Instant>,
    found: HashMap<u64, HashSet<u32>>,
}

impl Owners {
    fn of(&mut self, window: &BindWindow, command: &Handle) -> &HashMap<u64, HashSet<u32>> {
        let due = self.looked.is_none_or(|looked| looked.elapsed() >= OWNERS_INTERVAL);
        if due && command.try_ended().is_some() {
            self.looked = Some(Instant::now());
            let inodes = window.before.listeners().iter().map(|listener| listener.inode).collect();
            self.found = process::holders_of(&inodes);
            for (inode, pids) in &mut self.found {
                let before = window.owners_before.get(inode);
                // A child that an old server forks is not a new server; but under init every process is a descendant.
                let forked = |pid: u32, old: u32| old != 1 && pid != old && process::is_descendant(pid, old);
                pids.retain(|pid| before.is_none_or(|old| !old.iter().any(|old| forked(*pid, *old))));
            }
        }
        &self.found
    }
}

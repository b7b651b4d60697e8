//! Decides when a server that is not HAProxy is ready.

use std::collections::HashSet;
use std::process::Command;
use std::time::Duration;

use super::notify;
use crate::config::{Ready, Service};
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::listener::{Address, Endpoint, Listener, SocketType};
use crate::process::readiness::NotReady;
use crate::process::{self, Handle, ProcessScope};
use crate::sockets::custody::KeptSocket;

/// No event tells of listen(2), or of a wait, in another process.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The pause before a readiness command that failed is run again.
const NEXT_TRY: Duration = Duration::from_millis(100);

/// What is waited for.
pub(crate) struct Readiness {
    process: Handle,
    shown_by: ShownBy,
}

enum ShownBy {
    /// Its processes have bound these, and wait on them.
    Bound(Vec<Endpoint>),
    /// Its processes wait on these sockets, which were given to them.
    Waiting(Vec<Listener>),
    Notify(notify::Socket),
    Command(Vec<String>),
}

impl Readiness {
    pub(super) fn new(
        config: &Service,
        process: Handle,
        given: &[KeptSocket],
        notify: Option<notify::Socket>,
    ) -> Readiness {
        let shown_by = match (&config.ready, notify) {
            (Ready::Command(words), _) => ShownBy::Command(words.clone()),
            (_, Some(socket)) => ShownBy::Notify(socket),
            _ if !given.is_empty() => ShownBy::Waiting(given.iter().map(|held| held.listener.clone()).collect()),
            _ => ShownBy::Bound(config.listen.clone()),
        };
        Readiness { process, shown_by }
    }

    /// Waits until it is ready.
    pub(crate) async fn reached(&self) -> Result<(), NotReady> {
        let root = self.process.pid();
        match &self.shown_by {
            ShownBy::Bound(addresses) => until(|| Ok(unbound(root, addresses)?.is_empty())).await,
            ShownBy::Waiting(listeners) => until(|| Ok(unattended(root, listeners).is_empty())).await,
            ShownBy::Notify(socket) => socket.ready(root).await.map_err(|error| NotReady::Unseen(error.to_string())),
            ShownBy::Command(words) => loop {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]).env("MAINPID", root.to_string());
                match process::run_to_success(&mut command).await {
                    Ok(()) => return Ok(()),
                    Err(said) => log::debug!("not ready yet: {}", said.join("; ")),
                }
                tokio::time::sleep(NEXT_TRY).await;
            },
        }
    }

    /// What it lacks at this moment, as a sentence.
    pub(crate) fn why_not_ready(&self) -> Option<String> {
        let root = self.process.pid();
        let (what, places) = match &self.shown_by {
            ShownBy::Bound(addresses) => ("listens, and waits for connections, on", unbound(root, addresses).ok()?),
            ShownBy::Waiting(listeners) => ("waits for connections on", unattended(root, listeners)),
            ShownBy::Notify(_) => return Some("it has not said READY=1".into()),
            ShownBy::Command(words) => return Some(format!("{} has not succeeded", words[0])),
        };
        (!places.is_empty()).then(|| format!("none of its processes {what} {}", places.join(", ")))
    }
}

async fn until(is_so: impl Fn() -> Result<bool, NotReady>) -> Result<(), NotReady> {
    while !is_so()? {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

fn unattended(root: u32, listeners: &[Listener]) -> Vec<String> {
    let processes = ProcessScope::All.processes(root);
    let alone = listeners.iter().filter(|listener| !process::waits_on(&processes, listener.inode));
    alone.map(|listener| listener.endpoint.to_string()).collect()
}

/// Of the stream addresses of `listen`, those on which no process of the tree waits. The kernel's lists of listeners have no UDP sockets.
fn unbound(root: u32, listen: &[Endpoint]) -> Result<Vec<String>, NotReady> {
    let processes = ProcessScope::All.processes(root);
    let sockets = process::sockets_of(&processes);
    let listeners = sock_diag::listeners().map_err(|error| NotReady::Unseen(error.to_string()))?;
    let is_served =
        |found: &ListenSocket| sockets.contains_key(&found.inode) && process::waits_on(&processes, found.inode);
    let is_wanted = |found: &ListenSocket| listen.iter().any(|listen| listen.address == found.address);
    let bound: HashSet<Address> =
        listeners.into_iter().filter(is_wanted).filter(is_served).map(|found| found.address).collect();
    let streams = listen.iter().filter(|listen| listen.socket_type == SocketType::Stream);
    Ok(streams.filter(|listen| !bound.contains(&listen.address)).map(ToString::to_string).collect())
}

/// Whether processes of the tree wait on a socket at each of these addresses.
pub(crate) fn is_attended(root: u32, listen: &[Endpoint]) -> bool {
    unbound(root, listen).is_ok_and(|missing| missing.is_empty())
}

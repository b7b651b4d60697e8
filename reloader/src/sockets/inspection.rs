//! Finds the listeners that a running server really has, from /proc and sock_diag, and duplicates those that can be duplicated.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::kernel::sock_diag::{ListenSocket, SockDiagError};
use crate::kernel::udp;
use crate::model::SocketMetadata;
use crate::model::listener::{Address, Endpoint, Listener, Owned, Role};
use crate::process::{self, Handle, ProcessSockets, SocketOwner};
use crate::sockets::custody::{Custody, KeptSocket};
use crate::sockets::description::describe;

/// Why a generation's listeners are not known.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The kernel did not list the listeners (sock_diag).
    #[error(transparent)]
    SockDiag(#[from] SockDiagError),
    /// /proc/net did not list the UDP sockets.
    #[error("the kernel does not list its UDP sockets in /proc/net: {0}")]
    Udp(std::io::Error),
    /// /proc shows no socket of this process.
    #[error(
        "the sockets of process {0} cannot be seen in /proc: a server that changes its user (`user`, `uid` or `chroot` of HAProxy) takes \
         CAP_SYS_PTRACE, and a /proc that shows it; give the daemon that, or let the server keep the daemon's user"
    )]
    Unseen(u32),
    /// The process can be looked at, and has no socket.
    #[error(
        "process {0} has no socket, and no process below it has one: a server has to listen, and to stay a child of the process that was started"
    )]
    NoSocket(u32),
    /// The daemon may not send signals to this process, so it could never ask the process to end.
    #[error(
        "process {0} cannot be signalled: a server that changes its user takes CAP_KILL; give the daemon that, or let the server keep the \
         daemon's user"
    )]
    BeyondSignals(u32),
    /// The thread that inspected the generation panicked or was cancelled.
    #[error("internal error while looking at the new generation: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// A generation's listeners at one moment.
#[derive(Debug)]
pub struct Inspection {
    /// The listeners of the generation, except for the daemon's private sockets.
    pub owned: Vec<Owned>,
    /// Duplicates of the listeners that can be passed on.
    pub custody: Custody,
    /// The inode of the sentinel listener, which the generation closes only when it stops. `None` if it has no such listener.
    pub sentinel: Option<u64>,
    /// All sockets of the generation's processes, by inode.
    pub sockets: HashMap<u64, SocketOwner>,
    /// All listeners (TCP and unix) that sock_diag listed at that moment.
    pub machine: Vec<ListenSocket>,
    /// Why this inspection may be wrong: the server did not answer, or a process ended meanwhile.
    pub doubt: Option<String>,
    /// The sockets that could not be duplicated, a sentence each.
    pub notes: Vec<String>,
}

/// The facts about a server's listeners that are known before the kernel is asked.
pub struct InspectRequest<R, L, D> {
    /// The server's processes, and their sockets.
    pub processes: ProcessSockets,
    /// The listeners that the server itself passed to the daemon.
    pub given: Vec<KeptSocket>,
    /// The listeners of this network namespace, as sock_diag lists them now.
    pub machine: Vec<ListenSocket>,
    /// Returns the role of a listener at an address. `None` for a private socket of the daemon, which is left out.
    pub role: R,
    /// Finds the inode of the sentinel listener, which the server closes only when it stops.
    pub sentinel: L,
    /// The sockets that could not be duplicated, a sentence each.
    pub notes: Vec<String>,
    /// Why `given` may not be the listeners that the server has.
    pub doubt: Option<String>,
    /// Whether a UDP socket that is bound and not connected serves clients: from its address and a duplicate of it.
    pub serves: D,
}

/// Inspects the server that `known` describes. It blocks for as long as the kernel takes.
///
/// # Errors
/// The kernel does not list the UDP sockets, /proc shows none of them, or the daemon may not send signals to a process.
pub fn look<R, L, D>(known: InspectRequest<R, L, D>) -> Result<Inspection, InspectError>
where
    R: Fn(&Address) -> Option<Role>,
    L: FnOnce(&[ListenSocket], &HashMap<u64, SocketOwner>) -> Option<u64>,
    D: Fn(&Endpoint, &OwnedFd) -> bool,
{
    let InspectRequest { processes, given, machine, role, sentinel: lifeline, mut notes, mut doubt, serves } = known;
    let ProcessSockets { pids: processes, sockets } = processes;
    if sockets.is_empty() {
        let first = processes.first().copied().unwrap_or_default();
        return Err(match process::shows_descriptors(first) {
            true => InspectError::NoSocket(first),
            false => InspectError::Unseen(first),
        });
    }
    if let Some(pid) = processes.iter().find(|pid| process::cannot_signal(**pid)) {
        return Err(InspectError::BeyondSignals(*pid));
    }
    let (mut held, orphaned): (Vec<KeptSocket>, Vec<KeptSocket>) =
        given.into_iter().partition(|held| sockets.contains_key(&held.listener.inode));
    if let Some(orphan) = orphaned.first() {
        doubt = Some(format!("none of its processes holds {} any more", orphan.listener.endpoint));
    }
    let known: HashSet<u64> = held.iter().map(|held| held.listener.inode).collect();
    let mut listed = HashSet::new();
    // HAProxy's thread groups have several descriptors of one socket. Each descriptor is passed on, but the listener is listed once.
    let once = held.iter().filter(|held| listed.insert(held.listener.inode));
    let mut owned: Vec<Owned> = once.map(|held| Owned { listener: held.listener.clone(), role: held.role }).collect();
    for found in machine.iter().filter(|found| sockets.contains_key(&found.inode) && !known.contains(&found.inode)) {
        let Some(role) = role(&found.address) else { continue };
        match duplicate(found.inode, sockets[&found.inode]) {
            Ok((listener, fd)) => {
                owned.push(Owned { listener: listener.clone(), role });
                held.push(KeptSocket { listener, role, fd: Arc::new(fd), metadata: SocketMetadata::default() });
            }
            Err(message) => {
                notes.push(format!("{} is not in custody: {message}", found.address));
                let listener = Listener { endpoint: Endpoint::stream(found.address.clone()), inode: found.inode };
                owned.push(Owned { listener, role });
            }
        }
    }
    for datagram in datagrams(&sockets, &known, serves)? {
        owned.push(Owned { listener: datagram.listener.clone(), role: Role::Traffic });
        held.push(datagram);
    }
    let listening: HashSet<u64> = owned.iter().map(|owned| owned.listener.inode).collect();
    let owners = sockets.iter().filter(|(inode, _)| listening.contains(inode)).map(|(inode, owner)| (*inode, *owner));
    let custody = Custody::new(held, owners.collect());
    let lifeline = lifeline(&machine, &sockets);
    Ok(Inspection { owned, custody, sentinel: lifeline, sockets, machine, doubt, notes })
}

/// Duplicates the UDP sockets that serve, and that the server did not pass on itself. HAProxy does not export those of `log-forward`.
fn datagrams(
    sockets: &HashMap<u64, SocketOwner>,
    known: &HashSet<u64>,
    serves: impl Fn(&Endpoint, &OwnedFd) -> bool,
) -> Result<Vec<KeptSocket>, InspectError> {
    let unconnected = udp::unconnected_inodes().map_err(InspectError::Udp)?;
    let unknown = unconnected.into_iter().filter(|inode| sockets.contains_key(inode) && !known.contains(inode));
    let mut held = Vec::new();
    for inode in unknown {
        match duplicate(inode, sockets[&inode]) {
            Ok((listener, fd)) if serves(&listener.endpoint, &fd) => {
                held.push(KeptSocket {
                    listener,
                    role: Role::Traffic,
                    fd: Arc::new(fd),
                    metadata: SocketMetadata::default(),
                });
            }
            Ok(_) => {}
            Err(message) => log::debug!("a UDP socket is not in custody: {message}"),
        }
    }
    Ok(held)
}

/// Duplicates, with pidfd_getfd(2), a socket that the server does not pass on itself.
fn duplicate(inode: u64, owner: SocketOwner) -> Result<(Listener, OwnedFd), String> {
    let fd = Handle::duplicate(owner, inode).map_err(|error| error.to_string())?;
    let mut record = SocketMetadata::default();
    let listener = describe(fd.as_fd(), &record).ok_or("it is no listener any more")?;
    record.interface = listener.endpoint.interface.clone().unwrap_or_default().into_bytes();
    Ok((listener, fd))
}

//! What a running HAProxy really owns: asked over its stats socket, checked against /proc and sock_diag.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::SockRef;

use super::client::{self, ClientError};
use super::launch::is_private_socket;
use super::runtime_api;
use crate::custody::{Custody, Held, describe, take_in};
use crate::haproxy::codec::Record;
use crate::kernel::sock_diag::{self, ListenSocket, SockDiagError};
use crate::kernel::udp;
use crate::listener::{Address, Endpoint, Listener, Owned, Role};
use crate::process::{self, Handle, SocketOwner};

/// Why a generation's listeners are not known.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The kernel did not tell.
    #[error(transparent)]
    SockDiag(#[from] SockDiagError),
    /// /proc did not tell.
    #[error("the kernel does not list its UDP sockets in /proc/net: {0}")]
    Udp(std::io::Error),
    /// Not even its stats socket is seen.
    #[error("the sockets of process {0} cannot be seen in /proc (CAP_SYS_PTRACE is needed, and a /proc that shows it)")]
    Unseen(u32),
    /// The thread that asked died.
    #[error("internal error while looking at the new generation: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// A generation's listeners at one moment.
#[derive(Debug)]
pub struct Inspection {
    /// What it owns, the daemon's private sockets left out.
    pub owned: Vec<Owned>,
    /// Duplicates of what can be passed on.
    pub custody: Custody,
    /// The inode of the stats socket it answers on; `None` when it is not among its sockets.
    pub socket_inode: Option<u64>,
    /// All sockets of its processes.
    pub sockets: HashMap<u64, SocketOwner>,
    /// All TCP listeners of the machine at that moment.
    pub machine: Vec<ListenSocket>,
    /// Why what was seen may not be what it serves: it did not answer, or ended meanwhile.
    pub doubt: Option<String>,
    /// What could not be taken, in sentences.
    pub notes: Vec<String>,
}

/// How long one answer of the runtime API may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Said of an adopted HAProxy whose stats socket lacks `expose-fd listeners`.
const UNEXPORTED: &str = "its stats socket does not export listeners: those on TCP and unix sockets of this network \
    namespace were duplicated one by one, others (UDP, other namespaces) are not known and are bound anew by the next reload";

/// Looks at the HAProxy whose root process is `root` and that answers on `socket`.
///
/// One that does not export (`exports`: HAProxy before 1.8) is not asked for its sockets: the kernel is.
pub async fn inspect(
    root: u32,
    socket: PathBuf,
    runtime_dir: PathBuf,
    exports: bool,
) -> Result<Inspection, InspectError> {
    let control = match runtime_api::cli_sockets(&socket, PATIENCE).await {
        Ok(addresses) => addresses.into_iter().collect(),
        Err(error) => {
            log::warn!("`show cli sockets` failed on {}: {error}; stats sockets count as traffic", socket.display());
            HashSet::new()
        }
    };
    tokio::task::spawn_blocking(move || look(root, &socket, &runtime_dir, &control, exports)).await?
}

fn look(
    root: u32,
    socket: &Path,
    runtime_dir: &Path,
    control: &HashSet<String>,
    exports: bool,
) -> Result<Inspection, InspectError> {
    let mut notes = Vec::new();
    let mut doubt = None;
    let asked = if exports { client::get_sockets(socket) } else { Ok(Vec::new()) };
    let exported = asked.unwrap_or_else(|error| {
        // The private socket is itself a listener, so even an empty configuration exports one.
        if matches!(error, ClientError::NotExposed) && !is_private_socket(runtime_dir, socket) {
            notes.push(UNEXPORTED.into());
        } else {
            doubt = Some(format!("listeners could not be taken with _getsocks: {error}"));
        }
        Vec::new()
    });
    let sockets = process::sockets_of(&process::family(root));
    if sockets.is_empty() {
        return Err(InspectError::Unseen(root));
    }
    let machine = sock_diag::listeners()?;

    let role = |address: &Address| if control.contains(&cli_name(address)) { Role::Control } else { Role::Traffic };
    let ours = |address: &Address| !matches!(address, Address::Unix(path) if is_private_socket(runtime_dir, path));
    let exported = take_in(exported, |found| ours(&found.endpoint.address), role);
    let (mut held, orphaned): (Vec<Held>, Vec<Held>) =
        exported.into_iter().partition(|held| sockets.contains_key(&held.listener.inode));
    if let Some(orphan) = orphaned.first() {
        doubt = Some(format!("none of its processes holds {} any more", orphan.listener.endpoint));
    }
    let known: HashSet<u64> = held.iter().map(|held| held.listener.inode).collect();
    let mut listed = HashSet::new();
    // Thread groups share a socket under several descriptors: each is passed on, the listener is one.
    let once = held.iter().filter(|held| listed.insert(held.listener.inode));
    let mut owned: Vec<Owned> = once.map(|held| Owned { listener: held.listener.clone(), role: held.role }).collect();
    let is_unexported = |found: &&ListenSocket| sockets.contains_key(&found.inode) && !known.contains(&found.inode);
    let unexported = machine.iter().filter(is_unexported).filter(|found| ours(&found.address));
    for found in unexported {
        match duplicate(found.inode, sockets[&found.inode]) {
            Ok((listener, fd)) => {
                let role = role(&listener.endpoint.address);
                owned.push(Owned { listener: listener.clone(), role });
                held.push(Held { listener, role, fd: std::sync::Arc::new(fd), record: Record::default() });
            }
            Err(message) => {
                notes.push(format!("{} is not in custody: {message}", found.address));
                let listener = Listener { endpoint: Endpoint::stream(found.address.clone()), inode: found.inode };
                owned.push(Owned { listener, role: role(&found.address) });
            }
        }
    }
    // HAProxy does not export the sockets of `log-forward`, and takes them over where they are offered.
    let datagrams = udp::unconnected().map_err(InspectError::Udp)?;
    for inode in datagrams.into_iter().filter(|inode| sockets.contains_key(inode) && !known.contains(inode)) {
        match duplicate(inode, sockets[&inode]) {
            // What it only sends by is not shared.
            Ok((listener, fd)) if SockRef::from(&fd).reuse_port().is_ok_and(|shared| shared) => {
                owned.push(Owned { listener: listener.clone(), role: Role::Traffic });
                held.push(Held {
                    listener,
                    role: Role::Traffic,
                    fd: std::sync::Arc::new(fd),
                    record: Record::default(),
                });
            }
            Ok(_) => {}
            Err(message) => log::debug!("a UDP socket is not in custody: {message}"),
        }
    }
    let listening: HashSet<u64> = owned.iter().map(|owned| owned.listener.inode).collect();
    let owners = sockets.iter().filter(|(inode, _)| listening.contains(inode)).map(|(inode, owner)| (*inode, *owner));
    let custody = Custody::new(held, owners.collect());
    let socket_inode = stats_socket_inode(socket, &machine, &sockets);
    Ok(Inspection { owned, custody, socket_inode, sockets, machine, doubt, notes })
}

/// The inode of the stats socket at `path`, when one of `sockets` listens there.
///
/// Whoever answers on a path says any pid: only the kernel tells whose socket it is.
pub fn stats_socket_inode(path: &Path, machine: &[ListenSocket], sockets: &HashMap<u64, SocketOwner>) -> Option<u64> {
    let here = machine.iter().filter(|found| matches!(&found.address, Address::Unix(at) if is_same_path(at, path)));
    here.map(|found| found.inode).find(|inode| sockets.contains_key(inode))
}

/// The same file name in the same directory, however that is spelled (`/var/run` and `/run`).
fn is_same_path(one: &Path, other: &Path) -> bool {
    let directory = |path: &Path| path.parent().and_then(|parent| parent.canonicalize().ok());
    one == other
        || (one.file_name() == other.file_name() && directory(one).is_some_and(|d| Some(d) == directory(other)))
}

/// What HAProxy does not export (no `expose-fd listeners` on an adopted one) is duplicated by the kernel.
fn duplicate(inode: u64, owner: SocketOwner) -> Result<(Listener, std::os::fd::OwnedFd), String> {
    let fd = Handle::duplicate(owner).map_err(|error| error.to_string())?;
    let mut record = Record::default();
    let listener = describe(std::os::fd::AsFd::as_fd(&fd), &record)
        .filter(|listener| listener.inode == inode)
        .ok_or("the descriptor was closed while it was looked at")?;
    record.interface = listener.endpoint.interface.clone().unwrap_or_default().into_bytes();
    Ok((listener, fd))
}

/// The name of an address in the output of `show cli sockets`.
fn cli_name(address: &Address) -> String {
    match address {
        Address::Inet(address @ std::net::SocketAddr::V4(_)) => format!("ipv4@{address}"),
        Address::Inet(address @ std::net::SocketAddr::V6(_)) => format!("ipv6@{address}"),
        Address::Unix(path) => format!("unix@{}", path.display()),
        Address::Abstract(name) => format!("abns@{}", String::from_utf8_lossy(name)),
    }
}

//! Finds the listeners that a running HAProxy really has: asks over its stats socket, and compares the answer with /proc and sock_diag.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::SockRef;
use tokio::task::spawn_blocking;

use super::cli_addresses;
use super::client::{self, ClientError};
use super::launch::is_private_socket;
use super::runtime_api;
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::SocketMetadata;
use crate::model::listener::{Address, Endpoint, Role};
use crate::process::{self, ProcessSockets, SocketOwner};
use crate::sockets::custody::{KeptSocket, KnownListeners, take_in};
use crate::sockets::inspection::{InspectError, InspectRequest, Inspection, look};

/// How long one answer of the runtime API may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The note about an adopted HAProxy whose stats socket lacks `expose-fd listeners`.
pub const UNEXPORTED: &str = "its stats socket does not export listeners: those on TCP and unix sockets of this network \
    namespace were duplicated one by one, others (UDP, other namespaces) are not known and are bound again by the next reload";

/// The HAProxy that is inspected.
#[derive(Debug)]
pub struct Inspected {
    /// Its root process.
    pub root: u32,
    /// Its stats socket.
    pub socket: PathBuf,
    /// The directory of the daemon's private sockets.
    pub runtime_dir: PathBuf,
    /// False for a HAProxy before 1.8, which cannot export sockets. Then only the kernel is asked for them.
    pub exports: bool,
    /// Sockets in custody. Those among them that it has are not described again.
    pub kept: Vec<KeptSocket>,
    /// Its CLI sockets, as by [`cli_sockets`](runtime_api::cli_sockets), where it has named them already.
    pub cli_sockets: Option<Option<Vec<String>>>,
}

/// The answers of a HAProxy and of the kernel.
struct Answers {
    /// The sockets that it passed.
    exported: Result<Vec<(OwnedFd, SocketMetadata)>, ClientError>,
    /// The listeners of this network namespace.
    machine: Vec<ListenSocket>,
    /// Its processes.
    processes: ProcessSockets,
}

/// Inspects a HAProxy. With thousands of listeners each answer takes milliseconds, so all are asked for at once.
///
/// # Errors
/// The errors of [`look`], or the thread that asks fails.
pub async fn inspect(mut inspected: Inspected) -> Result<Inspection, InspectError> {
    let named = inspected.cli_sockets.take();
    let (socket, root) = (inspected.socket.clone(), inspected.root);
    let seen = spawn_blocking(move || ProcessSockets::read(process::family(root)));
    let asked = spawn_blocking(move || {
        let exported = if inspected.exports { client::get_sockets(&inspected.socket) } else { Ok(Vec::new()) };
        (sock_diag::listeners(), exported, inspected)
    });
    let listed = async {
        match named {
            Some(addresses) => Ok(addresses),
            None => runtime_api::cli_sockets(&socket, ANSWER_TIMEOUT).await,
        }
    };
    let (listed, asked, seen) = tokio::join!(listed, asked, seen);
    let listed = match listed {
        Ok(addresses) => addresses.map(|addresses| addresses.into_iter().collect()),
        Err(error) => {
            log::warn!("`show cli sockets` failed on {}: {error}; stats sockets count as traffic", socket.display());
            Some(HashSet::new())
        }
    };
    let ((machine, exported, inspected), processes) = (asked?, seen?);
    let machine = machine?;
    spawn_blocking(move || {
        let control =
            listed.unwrap_or_else(|| cli_addresses::configured(inspected.root).iter().map(cli_name).collect());
        judge(&inspected, &control, Answers { exported, machine, processes })
    })
    .await?
}

fn judge(inspected: &Inspected, control: &HashSet<String>, answers: Answers) -> Result<Inspection, InspectError> {
    let Inspected { root, socket, runtime_dir, kept, .. } = inspected;
    let Answers { exported, machine, mut processes } = answers;
    let mut notes = Vec::new();
    let mut doubt = None;
    let exported = exported.unwrap_or_else(|error| {
        // The private socket is itself a listener, so even an empty configuration exports one.
        if matches!(error, ClientError::NotExposed) && !is_private_socket(runtime_dir, socket) {
            notes.push(UNEXPORTED.into());
        } else {
            doubt = Some(format!("listeners could not be taken with _getsocks: {error}"));
        }
        Vec::new()
    });
    // A master keeps its own CLI while its workers drain. No later generation takes that CLI over.
    let master = master_cli(&process::command_line(*root).unwrap_or_default());
    let is_masters = |address: &Address| master.as_ref().is_some_and(|name| *name == cli_name(address));
    let is_private = |address: &Address| {
        matches!(address, Address::Unix(at) if is_private_socket(runtime_dir, at)) || is_masters(address)
    };
    let role = |address: &Address| if control.contains(&cli_name(address)) { Role::Control } else { Role::Traffic };
    let known = KnownListeners::new(kept, &machine);
    let given = take_in(exported, &known, |found| !is_private(&found.endpoint.address), role);
    if given.iter().any(|given| !processes.sockets.contains_key(&given.listener.inode)) {
        // Its processes may have been looked at before it had this one.
        processes = ProcessSockets::read(process::family(*root));
    }
    look(InspectRequest {
        processes,
        given,
        machine,
        role: |address: &Address| (!is_private(address)).then(|| role(address)),
        sentinel: |machine: &[ListenSocket], sockets: &_| stats_socket_inode(socket, machine, sockets),
        notes,
        doubt,
        // A UDP socket that is used only for sending has no SO_REUSEPORT.
        serves: |_: &Endpoint, fd: &OwnedFd| SockRef::from(fd).reuse_port().is_ok_and(|shared| shared),
    })
}

/// The CLI (`-S`) of a master that the daemon did not start, as its address would appear in `show cli sockets`.
fn master_cli(words: &[String]) -> Option<String> {
    let value = words.iter().skip_while(|word| *word != "-S").nth(1)?;
    let address = value.split(',').next()?;
    Some(match address {
        path if path.starts_with('/') => format!("unix@{path}"),
        named if named.contains('@') => named.to_owned(),
        port => format!("ipv4@{port}"),
    })
}

/// The inode of the stats socket at `path`, if one of `sockets` listens there.
///
/// A process that answers on a path can claim any pid. Only the kernel knows which process owns the socket.
pub fn stats_socket_inode(path: &Path, machine: &[ListenSocket], sockets: &HashMap<u64, SocketOwner>) -> Option<u64> {
    let here = machine.iter().filter(|found| matches!(&found.address, Address::Unix(at) if is_same_path(at, path)));
    here.map(|found| found.inode).find(|inode| sockets.contains_key(inode))
}

/// Whether both paths name the same file in the same directory. The directory may have two names, such as `/var/run` and `/run`.
fn is_same_path(one: &Path, other: &Path) -> bool {
    let directory = |path: &Path| path.parent().and_then(|parent| parent.canonicalize().ok());
    one == other
        || (one.file_name() == other.file_name() && directory(one).is_some_and(|d| Some(d) == directory(other)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn master_cli_address_is_read_from_the_command_line() {
        let of = |line: &str| master_cli(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("haproxy -Ws -S /run/m.sock,level,admin -f a"), Some("unix@/run/m.sock".into()));
        assert_eq!(of("haproxy -S 127.0.0.1:9000"), Some("ipv4@127.0.0.1:9000".into()));
        assert_eq!(of("haproxy -S abns@m"), Some("abns@m".into()));
        assert_eq!((of("haproxy -Ws"), of("haproxy -S")), (None, None));
    }
}

//! Binds listeners for a server.

use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fchmod, fstat, open};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::config::Service;
use crate::fs::accounts;
use crate::model::SocketMetadata;
use crate::model::listener::{Address, Endpoint, Role, SocketType};
use crate::sockets::custody::{KeptSocket, KnownListeners, take_in};

/// The kernel uses net.core.somaxconn where that is less.
const BACKLOG: i32 = i32::MAX;

/// The file of a unix socket: its mode, and who owns it. `None`: the daemon's user or group.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnixFile {
    mode: u32,
    user: Option<u32>,
    group: Option<u32>,
}

impl UnixFile {
    /// Looks up the names of the configuration.
    ///
    /// # Errors
    /// A sentence about a name that is unknown.
    pub(super) fn from_config(config: &Service) -> Result<UnixFile, String> {
        let owner = config.unix_owner().map(accounts::user).transpose()?;
        let named = config.socket_group.as_deref().map(accounts::group).transpose()?;
        let group = named.or_else(|| owner.as_ref().map(|user| user.gid.as_raw()));
        Ok(UnixFile { mode: config.unix_mode(), user: owner.map(|user| user.uid.as_raw()), group })
    }
}

/// A socket that is bound to `endpoint`, one of `all`.
///
/// # Errors
/// A sentence.
pub(super) fn socket(endpoint: &Endpoint, all: &[Endpoint], file: UnixFile) -> Result<KeptSocket, String> {
    let bound = bind(endpoint, all, file)
        .map_err(|error| format!("cannot listen on {endpoint}: {error}{}", hint(&endpoint.address, error.kind())))?;
    let mut held = take_in(
        vec![(OwnedFd::from(bound), SocketMetadata::default())],
        &KnownListeners::default(),
        |_| true,
        |_| Role::Traffic,
    );
    held.pop()
        .ok_or_else(|| format!("cannot listen on {endpoint}: the kernel does not list the new socket as a listener"))
}

/// The cause of an error that bind(2) or listen(2) gives for an address, and the remedy. Pure.
fn hint(address: &Address, error: io::ErrorKind) -> &'static str {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, InvalidInput, NotFound, PermissionDenied};
    match (address, error) {
        (_, AddrInUse) => {
            "; a process has it already (`ss -lnp` shows which): stop that process, or take the address from `listen`"
        }
        (Address::Inet(_), AddrNotAvailable) => "; no device has that address",
        (Address::Inet(_), PermissionDenied) => {
            "; ports below net.ipv4.ip_unprivileged_port_start (1024) take CAP_NET_BIND_SERVICE: give the daemon that"
        }
        (Address::Inet(address), InvalidInput) if is_link_local(address.ip()) => {
            "; a link-local address needs the number of its device: `[fe80::1%2]:80`"
        }
        (Address::Unix(_), NotFound) => "; its directory does not exist: make it, or change the path in `listen`",
        (Address::Unix(_), PermissionDenied) => "; the daemon may not write to its directory",
        (Address::Unix(_) | Address::Abstract(_), InvalidInput) => "; a unix socket has a name of at most 107 bytes",
        _ => "",
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn bind(endpoint: &Endpoint, all: &[Endpoint], file: UnixFile) -> io::Result<Socket> {
    let socket = match &endpoint.address {
        Address::Inet(address) => {
            let (kind, protocol) = match endpoint.socket_type {
                SocketType::Stream => (Type::STREAM, Protocol::TCP),
                SocketType::Datagram => (Type::DGRAM, Protocol::UDP),
            };
            let socket = Socket::new(Domain::for_address(*address), kind, Some(protocol))?;
            // Of two UDP sockets with SO_REUSEADDR the later one would get all datagrams.
            socket.set_reuse_address(endpoint.socket_type == SocketType::Stream)?;
            let any_ipv4 = Address::Inet((Ipv4Addr::UNSPECIFIED, address.port()).into());
            let is_any_ipv4 = |other: &Endpoint| other.address == any_ipv4 && other.socket_type == endpoint.socket_type;
            if address.is_ipv6() && all.iter().any(is_any_ipv4) {
                socket.set_only_v6(true)?;
            }
            socket.bind(&(*address).into())?;
            socket
        }
        Address::Unix(path) => bind_path(path, file)?,
        Address::Abstract(name) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            let bytes = [b"\0", name.as_slice()].concat();
            socket.bind(&SockAddr::unix(OsStr::from_bytes(&bytes))?)?;
            socket
        }
    };
    if endpoint.socket_type == SocketType::Stream {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

fn bind_path(path: &Path, file: UnixFile) -> io::Result<Socket> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file gets the mode of the socket (`unix_bind_bsd`), less the umask. The mode is not set by path after the bind: a user who may
    // write to the directory could have put another file there by then.
    fchmod(&socket, Mode::from_raw_mode(file.mode))?;
    let umask = rustix::process::umask(Mode::empty());
    let bound = socket.bind(&SockAddr::unix(path)?);
    rustix::process::umask(umask);
    bound?;
    if file.user.is_some() || file.group.is_some() {
        give_away(path, file)?;
    }
    Ok(socket)
}

/// Changes the owner of the socket's file. The file has the daemon's owner until then. So what another user may have put there is told by its
/// owner.
fn give_away(path: &Path, file: UnixFile) -> io::Result<()> {
    let found = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let metadata = fstat(&found)?;
    let own = rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(metadata.st_mode) != FileType::Socket || metadata.st_uid != own {
        return Err(io::Error::other("another file has taken the place of the new socket"));
    }
    let (user, group) = (file.user.map(Uid::from_raw), file.group.map(Gid::from_raw));
    Ok(chownat(&found, "", user, group, AtFlags::EMPTY_PATH)?)
}

/// Removes a socket file that was left behind by a server that no longer runs.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::other("a file that is not a socket is there: remove it, or take the path from `listen`"))
        }
        Ok(_) => match connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            _ => Err(io::ErrorKind::AddrInUse.into()),
        },
        Err(_) => Ok(()),
    }
}

/// Connects without waiting: a full queue belongs to a living server.
fn connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: UnixFile = UnixFile { mode: 0o666, user: None, group: None };

    fn listener(address: &Address, all: &[Address]) -> Result<KeptSocket, String> {
        let all: Vec<Endpoint> = all.iter().cloned().map(Endpoint::stream).collect();
        socket(&Endpoint::stream(address.clone()), &all, OPEN)
    }

    #[test]
    fn error_has_its_cause_and_remedy() {
        let error = |address: Address| listener(&address, &[]).unwrap_err();
        let missing = error(Address::Unix("/no/such/directory/a.sock".into()));
        assert!(missing.contains("its directory does not exist"), "{missing}");
        let long = error(Address::Unix(format!("/tmp/{}", "x".repeat(120)).into()));
        assert!(long.contains("at most 107 bytes"), "{long}");
        let local = error(Address::Inet("[fe80::1]:80".parse().unwrap()));
        assert!(local.contains("number of its device"), "{local}");
        let low = hint(&Address::Inet("127.0.0.1:80".parse().unwrap()), io::ErrorKind::PermissionDenied);
        assert!(low.contains("CAP_NET_BIND_SERVICE"));
    }

    #[test]
    fn udp_socket_is_bound_alone() {
        let endpoint = |port: u16| Endpoint {
            socket_type: SocketType::Datagram,
            ..Endpoint::stream(Address::Inet(([127, 0, 0, 1], port).into()))
        };
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let kept = socket(&endpoint(free), &[], OPEN).unwrap();
        assert_eq!(kept.listener.endpoint, endpoint(free));
        assert!(socket(&endpoint(free), &[], OPEN).unwrap_err().contains("udp@127.0.0.1"));
    }

    #[test]
    fn file_of_a_unix_socket_has_the_mode_and_owner_of_the_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (own, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let file = UnixFile { mode: 0o640, user: Some(own), group: Some(group) };
        let _kept = socket(&Endpoint::stream(Address::Unix(path.clone())), &[], file).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777, 0o640);
    }

    #[test]
    fn each_kind_of_address_is_bound() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().display().to_string();
        for address in [
            Address::Inet("127.0.0.1:0".parse().unwrap()),
            Address::Unix(directory.path().join("socket")),
            Address::Abstract(name.into_bytes()),
        ] {
            let held = listener(&address, &[]).unwrap();
            if !matches!(address, Address::Inet(_)) {
                assert_eq!(held.listener.endpoint, Endpoint::stream(address));
            }
        }
    }

    #[test]
    fn both_families_of_a_port_are_bound_beside_each_other() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let all = ["0.0.0.0", "[::]"].map(|any| Address::Inet(format!("{any}:{free}").parse().unwrap()));
        let _bound = all.each_ref().map(|address| listener(address, &all).unwrap());
    }

    #[test]
    fn stale_socket_path_is_replaced_and_other_paths_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let address = Address::Unix(path.clone());
        let first = listener(&address, &[]).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, OPEN.mode);
        assert!(listener(&address, &[]).unwrap_err().contains("a process has it already"));
        drop(first);
        let _second = listener(&address, &[]).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "text").unwrap();
        assert!(listener(&address, &[]).unwrap_err().contains("not a socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"text");
    }
}

//! Binds listeners for a server.

use std::ffi::OsStr;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::model::SocketMetadata;
use crate::model::listener::{Address, Role};
use crate::sockets::custody::{KeptSocket, take_in};

/// The kernel uses net.core.somaxconn where that is less.
const BACKLOG: i32 = i32::MAX;

/// Every user who can reach a port can reach a path too: the server decides about its clients.
const MODE: u32 = 0o666;

/// A socket that listens on `address`, one of `all`.
///
/// # Errors
/// A sentence.
pub(super) fn listener(address: &Address, all: &[Address]) -> Result<KeptSocket, String> {
    let bound = bind(address, all).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "; another server has it: stop that server, or take the address from `listen`",
            io::ErrorKind::AddrNotAvailable => "; no device has that address",
            _ => "",
        };
        format!("cannot listen on {address}: {error}{hint}")
    })?;
    let mut held = take_in(vec![(OwnedFd::from(bound), SocketMetadata::default())], |_| true, |_| Role::Traffic);
    held.pop()
        .ok_or_else(|| format!("cannot listen on {address}: the kernel does not list the new socket as a listener"))
}

fn bind(address: &Address, all: &[Address]) -> io::Result<Socket> {
    let socket = match address {
        Address::Inet(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            let any_ipv4 = Address::Inet((Ipv4Addr::UNSPECIFIED, address.port()).into());
            if address.is_ipv6() && all.contains(&any_ipv4) {
                socket.set_only_v6(true)?;
            }
            socket.bind(&(*address).into())?;
            socket
        }
        Address::Unix(path) => {
            remove_stale(path)?;
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // The file gets the mode of the socket (`unix_bind_bsd`), less the umask. The mode is not set by path after the bind: a user who may
            // write to the directory could have put another file there by then.
            fchmod(&socket, Mode::from_raw_mode(MODE))?;
            let umask = rustix::process::umask(Mode::empty());
            let bound = socket.bind(&SockAddr::unix(path)?);
            rustix::process::umask(umask);
            bound?;
            socket
        }
        Address::Abstract(name) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            let bytes = [b"\0", name.as_slice()].concat();
            socket.bind(&SockAddr::unix(OsStr::from_bytes(&bytes))?)?;
            socket
        }
    };
    socket.listen(BACKLOG)?;
    Ok(socket)
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
    use crate::model::listener::Endpoint;

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
        assert_eq!(mode & 0o777, MODE);
        assert!(listener(&address, &[]).unwrap_err().contains("another server has it"));
        drop(first);
        let _second = listener(&address, &[]).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "text").unwrap();
        assert!(listener(&address, &[]).unwrap_err().contains("not a socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"text");
    }
}

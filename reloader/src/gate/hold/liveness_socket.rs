//! Shows in a network namespace that a hold lives there, for processes that use another registry: a Unix socket with an abstract
//! name, which goes with the last process that has it.
//!
//! Any user can take such a name. The only consequence is that its id is not used.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_to, socket_with};

use crate::gate::contract::Living;

/// What comes before the id in the name.
const PREFIX: &str = "reloader-hold-";

/// Takes the name of a hold in the network namespace of the calling thread.
///
/// # Errors
/// EADDRINUSE where the name is taken.
pub(super) fn bind(id: u16) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let address = SocketAddrUnix::new_abstract_name(format!("{PREFIX}{id}").as_bytes())?;
    bind_to(&socket, &address)?;
    Ok(socket)
}

/// The ids whose names are taken in the network namespace of the calling thread.
pub(super) fn bound() -> Living {
    let path = format!("/proc/self/task/{}/net/unix", rustix::thread::gettid());
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(id).collect()
}

/// The id in a line such as `0000000000000000: 00000002 00000000 00000000 0002 01 12345 @NAME`.
fn id(line: &str) -> Option<u16> {
    line.split_whitespace().nth(7)?.strip_prefix('@')?.strip_prefix(PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_while_its_socket_is_open() {
        // One of the largest: holds of this machine begin elsewhere.
        let id = 0x7ffe;
        let socket = bind(id).unwrap();
        assert!(bound().contains(&id));
        assert!(bind(id).is_err());
        drop(socket);
        assert!(!bound().contains(&id));
    }
}

//! Lists unix sockets.

use std::os::unix::ffi::OsStrExt;

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::unix::nlas::{Nla, UnixDiagName};
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest, UnixResponse};
use rtnetlink::packet_core::Nla as _;

use super::table::{BoundFile, ListenSocket, SockDiagError, dump};
use crate::model::listener::Address;

/// All listening unix stream sockets that have a name.
///
/// # Errors
/// Where the kernel does not list its sockets.
pub fn unix_listeners() -> Result<Vec<ListenSocket>, SockDiagError> {
    let responses = list(StateFlags::LISTEN, ShowFlags::NAME | ShowFlags::RQLEN | ShowFlags::VFS)?;
    Ok(responses.iter().filter_map(listener).collect())
}

/// The inodes of connected unix sockets, each with the name of the listener that accepted it.
///
/// # Errors
/// Where the kernel does not list its sockets.
pub fn unix_connections() -> Result<Vec<(u64, Address)>, SockDiagError> {
    let responses = list(StateFlags::ESTABLISHED, ShowFlags::NAME | ShowFlags::RQLEN)?;
    Ok(responses.iter().filter_map(|response| Some((response.header.inode.into(), address(response)?))).collect())
}

/// The file that this listening socket was bound to. `listener` is the socket's own inode. `None` where it was bound to no file, or is gone.
///
/// # Errors
/// Where the kernel does not list its sockets.
pub fn bound_file(listener: u64) -> Result<Option<BoundFile>, SockDiagError> {
    let responses = list(StateFlags::LISTEN, ShowFlags::VFS)?;
    let found = responses.into_iter().find(|response| u64::from(response.header.inode) == listener);
    Ok(found.and_then(|response| file(&response)))
}

/// `struct unix_diag_vfs`: the file's inode and its device, 32 bits each in host byte order. The device is the kernel's own `dev_t`, with 20 bits
/// of minor number (`MINORBITS`).
fn file(response: &UnixResponse) -> Option<BoundFile> {
    let vfs = response.nlas.iter().find(|nla| matches!(nla, Nla::Vfs(_)))?;
    let mut value = vec![0; vfs.value_len()];
    vfs.emit_value(&mut value);
    let word = |offset: usize| Some(u32::from_ne_bytes(*value.get(offset..)?.first_chunk()?));
    let device = word(4)?;
    Some(BoundFile { inode: word(0)?, device: (device >> 20, device & 0xf_ffff) })
}

fn listener(response: &UnixResponse) -> Option<ListenSocket> {
    let (queued, backlog) = response.nlas.iter().find_map(|nla| match nla {
        Nla::ReceiveQueueLength(queued, backlog) => Some((*queued, *backlog)),
        _ => None,
    })?;
    Some(ListenSocket {
        inode: response.header.inode.into(),
        address: address(response)?,
        interface: 0,
        v6only: false,
        file: file(response),
        queued,
        backlog,
    })
}

fn address(response: &UnixResponse) -> Option<Address> {
    match response.name()? {
        UnixDiagName::Pathname(path) => Address::from_unix_name(path.as_bytes()),
        UnixDiagName::Abstract(name) => {
            let mut whole = vec![0];
            whole.extend(name);
            Address::from_unix_name(&whole)
        }
    }
}

fn list(state_flags: StateFlags, show_flags: ShowFlags) -> Result<Vec<UnixResponse>, SockDiagError> {
    let request = UnixRequest { state_flags, inode: 0, show_flags, cookie: [0xff; 8] };
    let messages = dump(SockDiagMessage::UnixRequest(request))?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            SockDiagMessage::UnixResponse(response) => Some(*response),
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn unix_listener_shows_its_path_and_its_file() {
        let path = std::env::temp_dir().join(format!("reloader-sock-diag-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let found = unix_listeners().unwrap().into_iter().find(|found| found.address == Address::Unix(path.clone()));
        let metadata = std::fs::metadata(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let found = found.unwrap();
        let device = metadata.dev();
        let file =
            BoundFile { inode: metadata.ino() as u32, device: (rustix::fs::major(device), rustix::fs::minor(device)) };
        assert_eq!((found.queued, found.file, bound_file(found.inode).unwrap()), (0, Some(file), Some(file)));
        drop(listener);
    }
}

//! What the kernel's socket tables say (sock_diag(7)): listeners with their queues, half-open and open connections.
//!
//! Every answer is of the network namespace of the calling thread.

use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE_WAIT, TCP_ESTABLISHED};
use netlink_packet_sock_diag::inet::nlas::Nla as InetNla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, Timer};
use netlink_packet_sock_diag::unix::nlas::{Nla as UnixNla, UnixDiagName};
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags as UnixStateFlags, UnixRequest, UnixResponse};
use rtnetlink::packet_core::{NLM_F_DUMP, Nla as _};
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink;
use crate::model::listener::Address;

/// Why the socket tables could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not list its sockets (sock_diag): {0}; it needs the modules tcp_diag and unix_diag")]
pub struct SockDiagError(io::Error);

/// A listening socket with its accept queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSocket {
    /// The socket's inode.
    pub inode: u64,
    /// Where it listens.
    pub address: Address,
    /// The interface index of SO_BINDTODEVICE, 0 for none.
    pub interface: u32,
    /// IPv6 without the IPv4 half; false for other families.
    pub v6only: bool,
    /// Connections in the accept queue.
    pub queued: u32,
    /// The accept queue's limit.
    pub backlog: u32,
}

/// A TCP connection, or a half-open one (its inode is 0 until it is accepted).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The socket's inode, 0 while nobody has accepted it.
    pub inode: u64,
    /// The address on this side.
    pub local: SocketAddr,
    /// The other side.
    pub remote: SocketAddr,
    /// Retransmissions of what is unacknowledged: for a half-open one, of its SYN-ACK.
    pub retransmits: u8,
}

/// A connection's two ends: this side, and the other.
pub type Ends = (SocketAddr, SocketAddr);

impl Connection {
    /// What it is known by as long as it lives: it has an inode only once it was accepted.
    pub fn ends(&self) -> Ends {
        (self.local, self.remote)
    }
}

/// All TCP listeners, IPv4 and IPv6.
pub fn tcp_listeners() -> Result<Vec<ListenSocket>, SockDiagError> {
    let responses = both_families(StateFlags::LISTEN, 0, ExtensionFlags::empty())?;
    Ok(responses
        .iter()
        .map(|response| ListenSocket {
            inode: response.header.inode.into(),
            address: Address::Inet(local(response)),
            interface: response.header.socket_id.interface_id,
            v6only: response.nlas.contains(&InetNla::SkV6Only(true)),
            queued: response.header.recv_queue,
            backlog: response.header.send_queue,
        })
        .collect())
}

/// All listening unix stream sockets that have a name.
pub fn unix_listeners() -> Result<Vec<ListenSocket>, SockDiagError> {
    let responses = unix(UnixStateFlags::LISTEN)?;
    Ok(responses.iter().filter_map(unix_listener).collect())
}

/// All listening sockets, TCP and unix.
pub fn listeners() -> Result<Vec<ListenSocket>, SockDiagError> {
    let mut all = tcp_listeners()?;
    all.extend(unix_listeners()?);
    Ok(all)
}

/// TCP connections past their handshake that are not yet closed on both sides.
///
/// `local_port` narrows the list in the kernel; 0 lists all.
pub fn connections(local_port: u16) -> Result<Vec<Connection>, SockDiagError> {
    Ok(both_families(open_states(), local_port, ExtensionFlags::empty())?.iter().map(connection).collect())
}

/// Half-open TCP connections: a SYN was answered, the client's ACK has not come.
pub fn half_open(local_port: u16) -> Result<Vec<Connection>, SockDiagError> {
    Ok(both_families(StateFlags::SYN_RECV, local_port, ExtensionFlags::empty())?.iter().map(connection).collect())
}

/// Connections that this side has closed within the last minute, or is about to have closed.
pub fn time_wait(local_port: u16) -> Result<Vec<Connection>, SockDiagError> {
    let states = StateFlags::TIME_WAIT | StateFlags::CLOSING | StateFlags::LAST_ACK;
    Ok(both_families(states, local_port, ExtensionFlags::empty())?.iter().map(connection).collect())
}

/// How many there are of them on all ports, without a list: many on a busy server.
pub fn time_wait_count() -> Option<usize> {
    // /proc/thread-self came with Linux 3.17.
    let path = format!("/proc/self/task/{}/net/sockstat", rustix::thread::gettid());
    let text = std::fs::read_to_string(path).ok()?;
    let words: Vec<&str> = text.lines().find(|line| line.starts_with("TCP:"))?.split_whitespace().collect();
    words.iter().skip_while(|word| **word != "tw").nth(1)?.parse().ok()
}

/// Connections on which the server owes an answer, as far as TCP can tell: it has not accepted them yet, it was sent
/// something and has not replied yet, or the client has connected this moment and will speak first.
pub fn unanswered(local_port: u16) -> Result<Vec<Connection>, SockDiagError> {
    let responses = both_families(open_states(), local_port, ExtensionFlags::INFO)?;
    Ok(responses.iter().filter(|response| owes_an_answer(response)).map(connection).collect())
}

/// The kernel tells these times in ticks of up to 10 ms: what happened within this time, in milliseconds, has no order.
const SAME_TIME: u32 = 20;

/// A client that will speak first does so within this time, in milliseconds, also one that waits for a processor; whoever
/// connects ahead of his need stays silent longer.
const SPEAKS_WITHIN: u32 = 50;

fn owes_an_answer(response: &InetResponse) -> bool {
    if response.header.inode == 0 {
        // Either still the listener's, which accept(2) leaves with an inode, or closed and left to the kernel.
        return matches!(response.header.state, TCP_ESTABLISHED | TCP_CLOSE_WAIT);
    }
    let info = response.nlas.iter().find_map(|nla| match nla {
        InetNla::TcpInfo(info) => Some(info),
        _ => None,
    });
    let queued = response.header.recv_queue > 0 || response.header.send_queue > 0;
    queued || info.is_some_and(|info| has_not_answered(info))
}

/// `info` is a `struct tcp_info` (linux/tcp.h), which older kernels know a shorter form of; its fields are in host byte order.
fn has_not_answered(info: &[u8]) -> bool {
    let word = |offset: usize| Some(u32::from_ne_bytes(*info.get(offset..)?.first_chunk()?));
    let (Some(last_data_sent), Some(last_data_recv), Some(last_ack_recv)) = (word(44), word(52), word(56)) else {
        return false;
    };
    // tcpi_bytes_received came with 4.2; its lower half says enough.
    if word(128) == Some(0) {
        // The ACK that completed the handshake was the last.
        return last_ack_recv < SPEAKS_WITHIN;
    }
    // tcpi_data_segs_out came with 4.6.
    let never_spoke = word(156) == Some(0);
    let spoke_before = last_data_sent > last_data_recv;
    let spoke_at_once = last_data_sent == last_data_recv && last_data_recv < SAME_TIME;
    never_spoke || spoke_before || spoke_at_once
}

fn open_states() -> StateFlags {
    StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT | StateFlags::FIN_WAIT1 | StateFlags::FIN_WAIT2
}

/// Inodes of connected unix sockets by the name they were accepted under.
pub fn unix_connections() -> Result<Vec<(u64, Address)>, SockDiagError> {
    let responses = unix(UnixStateFlags::ESTABLISHED)?;
    Ok(responses.iter().filter_map(|response| Some((response.header.inode.into(), unix_address(response)?))).collect())
}

fn connection(response: &InetResponse) -> Connection {
    let id = &response.header.socket_id;
    let retransmits = match response.header.timer {
        Some(Timer::Retransmit(_, count)) => count,
        _ => 0,
    };
    Connection {
        inode: response.header.inode.into(),
        local: local(response),
        remote: SocketAddr::new(id.destination_address, id.destination_port),
        retransmits,
    }
}

fn local(response: &InetResponse) -> SocketAddr {
    let id = &response.header.socket_id;
    SocketAddr::new(id.source_address, id.source_port)
}

/// The file (its inode in the file system) to which this listening socket was bound; `None` where it was bound to none, or is gone.
pub fn file_of(listener: u64) -> Result<Option<u32>, SockDiagError> {
    let responses = unix_showing(UnixStateFlags::LISTEN, ShowFlags::VFS)?;
    let found = responses.into_iter().find(|response| u64::from(response.header.inode) == listener);
    Ok(found.and_then(|response| response.nlas.iter().find_map(file_in)))
}

/// `struct unix_diag_vfs`: the file's inode and its device, 32 bits each in host byte order.
fn file_in(nla: &UnixNla) -> Option<u32> {
    let UnixNla::Vfs(_) = nla else { return None };
    let mut value = vec![0; nla.value_len()];
    nla.emit_value(&mut value);
    Some(u32::from_ne_bytes(*value.first_chunk()?))
}

fn unix_listener(response: &UnixResponse) -> Option<ListenSocket> {
    let (queued, backlog) = response.nlas.iter().find_map(|nla| match nla {
        UnixNla::ReceiveQueueLength(queued, backlog) => Some((*queued, *backlog)),
        _ => None,
    })?;
    Some(ListenSocket {
        inode: response.header.inode.into(),
        address: unix_address(response)?,
        interface: 0,
        v6only: false,
        queued,
        backlog,
    })
}

fn unix_address(response: &UnixResponse) -> Option<Address> {
    match response.name()? {
        UnixDiagName::Pathname(path) => Address::from_unix_name(path.as_bytes()),
        UnixDiagName::Abstract(name) => {
            let mut whole = vec![0];
            whole.extend(name);
            Address::from_unix_name(&whole)
        }
    }
}

fn both_families(
    states: StateFlags,
    local_port: u16,
    extensions: ExtensionFlags,
) -> Result<Vec<InetResponse>, SockDiagError> {
    let mut all = Vec::new();
    for (family, mut socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        socket_id.source_port = local_port;
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: extensions.clone(),
            states: states.clone(),
            socket_id,
        };
        for message in dump(SockDiagMessage::InetRequest(request))? {
            if let SockDiagMessage::InetResponse(response) = message {
                all.push(*response);
            }
        }
    }
    Ok(all)
}

fn unix(states: UnixStateFlags) -> Result<Vec<UnixResponse>, SockDiagError> {
    unix_showing(states, ShowFlags::NAME | ShowFlags::RQLEN)
}

fn unix_showing(states: UnixStateFlags, show_flags: ShowFlags) -> Result<Vec<UnixResponse>, SockDiagError> {
    let request = UnixRequest { state_flags: states, inode: 0, show_flags, cookie: [0xff; 8] };
    let messages = dump(SockDiagMessage::UnixRequest(request))?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            SockDiagMessage::UnixResponse(response) => Some(*response),
            _ => None,
        })
        .collect())
}

fn dump(message: SockDiagMessage) -> Result<Vec<SockDiagMessage>, SockDiagError> {
    netlink::request(NETLINK_SOCK_DIAG, message, NLM_F_DUMP).map_err(SockDiagError)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_listener_shows_with_its_queue_and_a_connection_with_its_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let queued = |address| {
            tcp_listeners().unwrap().into_iter().find(|found| found.address == Address::Inet(address)).unwrap().queued
        };
        assert_eq!(queued(address), 0);
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(queued(address), 1);
        let (_accepted, _) = listener.accept().unwrap();
        assert_eq!(queued(address), 0);
        let found = connections(address.port()).unwrap();
        let remote = client.local_addr().unwrap();
        assert!(found.iter().any(|connection| connection.local == address && connection.remote == remote));
    }

    #[test]
    fn an_answer_is_owed_from_the_handshake_until_the_server_speaks() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let owed = || unanswered(port).unwrap().iter().any(|connection| connection.local.port() == port);
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(owed(), "in the accept queue");
        let since = Instant::now();
        while since.elapsed().as_millis() < 2 * u128::from(SPEAKS_WITHIN) {
            assert!(owed(), "in the accept queue, and silent");
        }
        let (mut server, _) = listener.accept().unwrap();
        while owed() {}
        client.write_all(b"?").unwrap();
        assert!(owed(), "asked");
        server.read_exact(&mut [0]).unwrap();
        assert!(owed(), "read, and not answered");
        server.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
        while owed() {}
    }

    #[test]
    fn a_unix_listener_shows_with_its_path() {
        let path = std::env::temp_dir().join(format!("reloader-sock-diag-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let found = unix_listeners().unwrap().into_iter().find(|found| found.address == Address::Unix(path.clone()));
        let file = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        let found = found.unwrap();
        assert_eq!((found.queued, file_of(found.inode).unwrap()), (0, Some(file as u32)));
        drop(listener);
    }
}

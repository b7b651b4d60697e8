//! Lists TCP sockets, of IPv4 and IPv6.

use std::net::SocketAddr;

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, Timer};

use super::table::{Connection, ListenSocket, SockDiagError, dump};
use super::unanswered::owes_an_answer;
use crate::model::listener::Address;

/// All TCP listeners.
///
/// # Errors
/// Where the kernel does not list its sockets.
pub fn tcp_listeners() -> Result<Vec<ListenSocket>, SockDiagError> {
    let responses = list(StateFlags::LISTEN, 0, ExtensionFlags::empty())?;
    Ok(responses
        .iter()
        .map(|response| ListenSocket {
            inode: response.header.inode.into(),
            address: Address::Inet(local(response)),
            interface: response.header.socket_id.interface_id,
            v6only: response.nlas.contains(&Nla::SkV6Only(true)),
            file: None,
            queued: response.header.recv_queue,
            backlog: response.header.send_queue,
        })
        .collect())
}

/// TCP connections past their handshake that are not yet closed on both sides. `local_port` narrows the list in the kernel; 0
/// lists all.
///
/// # Errors
/// Where the kernel does not list its sockets.
pub fn connections(local_port: u16) -> Result<Vec<Connection>, SockDiagError> {
    Ok(list(open_states(), local_port, ExtensionFlags::empty())?.iter().map(connection).collect())
}

/// Half-open TCP connections: the SYN was answered, but the client's ACK has not arrived. `local_port` as in
/// [`connections`].
///
/// # Errors
/// Where the kernel does not list its sockets.
pub fn half_open(local_port: u16) -> Result<Vec<Connection>, SockDiagError> {
    Ok(list(StateFlags::SYN_RECV, local_port, ExtensionFlags::empty())?.iter().map(connection).collect())
}

/// Connections that this side closed within the last minute, or whose close is almost complete. `local_port` as in
/// [`connections`].
///
/// # Errors
/// Where the kernel does not list its sockets.
pub fn time_wait(local_port: u16) -> Result<Vec<Connection>, SockDiagError> {
    let states = StateFlags::TIME_WAIT | StateFlags::CLOSING | StateFlags::LAST_ACK;
    Ok(list(states, local_port, ExtensionFlags::empty())?.iter().map(connection).collect())
}

/// The number of connections in TIME_WAIT on all ports, read without listing them: a busy server has many. `None` where
/// /proc does not have it.
pub fn time_wait_count() -> Option<usize> {
    // /proc/thread-self came with Linux 3.17.
    let path = format!("/proc/self/task/{}/net/sockstat", rustix::thread::gettid());
    let text = std::fs::read_to_string(path).ok()?;
    let words: Vec<&str> = text.lines().find(|line| line.starts_with("TCP:"))?.split_whitespace().collect();
    words.iter().skip_while(|word| **word != "tw").nth(1)?.parse().ok()
}

/// Connections on which the server owes an answer, as far as TCP can tell. Either the server has not accepted it yet, or it was
/// sent data and has not replied yet, or the client has connected this moment and will speak first. `local_port` as of
/// [`connections`].
///
/// # Errors
/// Where the kernel does not list its sockets.
pub fn unanswered(local_port: u16) -> Result<Vec<Connection>, SockDiagError> {
    let responses = list(open_states(), local_port, ExtensionFlags::INFO)?;
    Ok(responses.iter().filter(|response| owes_an_answer(response)).map(connection).collect())
}

fn open_states() -> StateFlags {
    StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT | StateFlags::FIN_WAIT1 | StateFlags::FIN_WAIT2
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

fn list(states: StateFlags, local_port: u16, extensions: ExtensionFlags) -> Result<Vec<InetResponse>, SockDiagError> {
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;
    use crate::kernel::sock_diag::unanswered::SPEAKS_FIRST_WITHIN_MS;

    #[test]
    fn listener_shows_its_queue_and_connection_shows_its_peer() {
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
    fn server_owes_an_answer_from_the_handshake_until_it_replies() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let owed = || unanswered(port).unwrap().iter().any(|connection| connection.local.port() == port);
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(owed(), "in the accept queue");
        let since = Instant::now();
        while since.elapsed().as_millis() < 2 * u128::from(SPEAKS_FIRST_WITHIN_MS) {
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
}

//! Makes clients that wait for their server, and servers that come late.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::poll::until;

/// A client whose connection may not be established yet.
pub struct Client(Socket);

impl Client {
    /// Sends a SYN and returns.
    pub fn start(address: SocketAddr) -> Client {
        Client::connect(tcp(address), address)
    }

    /// Sends a SYN from this address and returns.
    pub fn start_from(source: IpAddr, address: SocketAddr) -> Client {
        let socket = tcp(address);
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        Client::connect(socket, address)
    }

    fn connect(socket: Socket, address: SocketAddr) -> Client {
        socket.set_nonblocking(true).unwrap();
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => panic!("{address}: {error}"),
            _ => Client(socket),
        }
    }

    /// Whether the server has answered. Panics if the connection was refused.
    #[track_caller]
    pub fn is_connected(&self) -> bool {
        if let Some(error) = self.0.take_error().unwrap() {
            panic!("{error}");
        }
        match self.0.peer_addr() {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::NotConnected => false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Starts a number of clients at the same time.
pub fn start_clients(address: SocketAddr, clients: usize) -> Vec<Client> {
    (0..clients).map(|_| Client::start(address)).collect()
}

/// Waits until all clients have been answered.
#[track_caller]
pub fn until_connected(clients: &[Client]) {
    // The limit is long enough for an emulated kernel.
    until(Duration::from_secs(30), "connections", || clients.iter().all(Client::is_connected));
}

/// A listener with room for all clients. Nothing is accepted until it is dropped.
pub fn listener(address: &str) -> TcpListener {
    listener_with(address, 4096)
}

/// A listener like [`listener`], with room for `backlog` connections and one more.
pub fn listener_with(address: &str, backlog: i32) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    let socket = tcp(address);
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(backlog).unwrap();
    socket.into()
}

/// Makes room for half-open connections in the calling thread's namespace. The default limit is small, and the kernel
/// keeps a quarter of it free.
pub fn raise_backlog_limits() {
    std::fs::write("/proc/sys/net/ipv4/tcp_max_syn_backlog", "16384").unwrap();
    std::fs::write("/proc/sys/net/core/somaxconn", "16384").unwrap();
}

/// The number of segments that the calling thread's namespace has sent again, including SYNs and SYN-ACKs.
pub fn retransmits() -> u64 {
    tcp_counter("snmp", "Tcp:", "RetransSegs")
}

/// The number of SYNs that the calling thread's namespace has sent again.
pub fn retransmitted_syns() -> u64 {
    tcp_counter("netstat", "TcpExt:", "TCPSynRetrans")
}

/// A counter of the calling thread's namespace, from a file with a line of names and a line of values for each group.
fn tcp_counter(file: &str, group: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let position = names.split(' ').position(|known| known == name).unwrap();
    values.split(' ').nth(position).unwrap().parse().unwrap()
}

fn tcp(address: SocketAddr) -> Socket {
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).unwrap()
}

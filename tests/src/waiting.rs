//! Clients that wait for their server, and servers that come late.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::poll::until;

/// A connection that is on its way.
pub struct Client(Socket);

impl Client {
    /// Send a SYN and return.
    pub fn start(address: SocketAddr) -> Client {
        Client::connect(tcp(address), address)
    }

    /// The same from this address.
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

    /// Whether its server has answered; panics if it was refused.
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

/// That many at once.
pub fn start_clients(address: SocketAddr, clients: usize) -> Vec<Client> {
    (0..clients).map(|_| Client::start(address)).collect()
}

/// Wait until all have been answered.
#[track_caller]
pub fn until_connected(clients: &[Client]) {
    until(Duration::from_secs(20), "connections", || clients.iter().all(Client::is_connected));
}

/// A listener with room for all; nothing is accepted until it is dropped.
pub fn listener(address: &str) -> TcpListener {
    listener_with(address, 4096)
}

/// As [`listener`], with room for so many and one more.
pub fn listener_with(address: &str, backlog: i32) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    let socket = tcp(address);
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(backlog).unwrap();
    socket.into()
}

/// Room for the clients' half-opens in the calling thread's namespace: by default the kernel keeps a quarter of a small number
/// free.
pub fn raise_backlog_limits() {
    std::fs::write("/proc/sys/net/ipv4/tcp_max_syn_backlog", "16384").unwrap();
    std::fs::write("/proc/sys/net/core/somaxconn", "16384").unwrap();
}

/// How many segments the calling thread's namespace has sent again, SYNs and SYN-ACKs included.
pub fn retransmits() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let position = names.split(' ').position(|name| name == "RetransSegs").unwrap();
    values.split(' ').nth(position).unwrap().parse().unwrap()
}

fn tcp(address: SocketAddr) -> Socket {
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).unwrap()
}

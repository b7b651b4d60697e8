//! A hold in a network namespace, and clients that connect while it is on.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use reloader::gate::ebpf::{EbpfGate, Hook};
use reloader::gate::hold::{Figures, Gate as _, Spec, Target};
use reloader_tests::guest::{self, Feature};
use reloader_tests::network::{Namespace, ip};
use reloader_tests::poll::until;
use socket2::{Domain, Protocol, Socket, Type};

/// The ways in that this kernel must have, the better one first.
pub(crate) fn hooks() -> Vec<Hook> {
    let tcx = guest::expects(Feature::Tcx).then_some(Hook::Tcx);
    tcx.into_iter().chain([Hook::Clsact]).collect()
}

/// The better one.
pub(crate) fn best() -> Hook {
    hooks()[0]
}
const LONG: Duration = Duration::from_secs(10);

pub(crate) fn spec(targets: &[&str]) -> Spec {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let target = |address: &&str| Target { address: address.parse().unwrap(), v6only: false, interface: 0 };
    Spec {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        targets: targets.iter().map(target).collect(),
        exceptions: Vec::new(),
        capacity: 1 << 20,
    }
}

/// An armed gate.
pub(crate) fn hold(hook: Hook, spec: &Spec) -> EbpfGate {
    let mut gate = EbpfGate::prepare_by(spec, Some(hook)).unwrap();
    gate.arm().unwrap();
    gate
}

/// Waits until that many SYNs are parked. Renews the lease meanwhile: no test is about how quick this machine is.
pub(crate) fn until_held(gate: &mut EbpfGate, held: u64) {
    until(LONG, "SYNs to be parked", || {
        gate.renew().unwrap();
        gate.figures().unwrap().held >= held
    });
    assert_eq!(gate.figures().unwrap().held, held);
}

/// A connection that is on its way.
pub(crate) struct Client {
    pub(crate) socket: Socket,
}

impl Client {
    /// Sends a SYN and returns.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).unwrap();
        Self { socket }.connect(address)
    }

    /// As [`start`](Self::start), with a socket that was prepared.
    pub(crate) fn connect(self, address: SocketAddr) -> Self {
        self.socket.set_nonblocking(true).unwrap();
        match self.socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(115) => panic!("{address}: {error}"),
            _ => self,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        if let Some(error) = self.socket.take_error().unwrap() {
            panic!("{error}");
        }
        match self.socket.peer_addr() {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::NotConnected => false,
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) fn start(address: SocketAddr, clients: usize) -> Vec<Client> {
    (0..clients).map(|_| Client::start(address)).collect()
}

pub(crate) fn until_connected(clients: &[Client]) {
    until(LONG, "connections", || clients.iter().all(Client::is_connected));
}

/// A listener with room for all; nothing is accepted until it is dropped.
pub(crate) fn listener(address: &str) -> TcpListener {
    listener_with(address, 4096)
}

/// As [`listener`], with room for so many and one more.
pub(crate) fn listener_with(address: &str, backlog: i32) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(backlog).unwrap();
    socket.into()
}

/// How many segments this namespace has sent again, SYNs and SYN-ACKs included.
pub(crate) fn retransmits() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let position = names.split(' ').position(|name| name == "RetransSegs").unwrap();
    values.split(' ').nth(position).unwrap().parse().unwrap()
}

/// Releases, and expects that each of these SYNs was delivered.
pub(crate) fn release(gate: &mut EbpfGate, held: u64) -> Figures {
    let figures = gate.release().unwrap();
    assert_eq!((figures.held, figures.released, figures.dropped, figures.lease_lapsed), (held, held, 0, 0));
    figures
}

/// Two connected namespaces, `left` at .1 and `right` at .2.
pub(crate) fn addressed() -> (Namespace, Namespace) {
    let (left, right) = reloader_tests::network::connected();
    left.run(|| addresses("left", 1));
    right.run(|| addresses("right", 2));
    (left, right)
}

pub(crate) fn addresses(device: &str, host: u8) {
    ip(&format!("addr add 10.0.0.{host}/24 dev {device}"));
    ip(&format!("addr add fd00::{host}/64 dev {device} nodad"));
}

/// Room for the clients' half-opens: by default the kernel keeps a quarter of a small number free.
pub(crate) fn room() {
    std::fs::write("/proc/sys/net/ipv4/tcp_max_syn_backlog", "16384").unwrap();
    std::fs::write("/proc/sys/net/core/somaxconn", "16384").unwrap();
}

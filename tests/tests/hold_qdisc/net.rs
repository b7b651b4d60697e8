//! Clients that wait, servers that are not there yet, and what tc says about both.

use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use reloader::gate::hold::{Spec, Target};
use reloader::gate::qdisc::{QdiscError, QdiscGate};
use reloader_tests::footprint::Footprint;
use reloader_tests::poll::until;
use socket2::{Domain, Protocol, Socket, Type};

use reloader_tests::network::{Namespace, add_addresses, command, veth_pair};

pub(crate) const PORT: u16 = 8080;
/// Longer than any of this takes, with the kernel emulated.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Whether the kernel can; in a guest of `cargo xtask test --kernels` it must.
pub(crate) fn kernel_has_plug() -> bool {
    let has = Namespace::new().run(|| match QdiscGate::prepare(&spec(1, &["127.0.0.1:1"])) {
        Err(error @ QdiscError::NoModule { .. }) => {
            eprintln!("not tested: {error}");
            false
        }
        prepared => prepared.map(drop).is_ok() || std::env::var_os("RELOADER_GUEST").is_some(),
    });
    assert!(has || std::env::var_os("RELOADER_GUEST").is_none(), "a guest's kernel has to have sch_plug");
    has
}

pub(crate) fn spec(id: u16, targets: &[&str]) -> Spec {
    let target = |text: &&str| Target { address: text.parse().unwrap(), v6only: true, interface: 0 };
    Spec { id, targets: targets.iter().map(target).collect(), exceptions: Vec::new(), capacity: 1 << 20 }
}

/// A client's and a server's namespace, with addresses of both families.
pub(crate) fn neighbours() -> (Namespace, Namespace) {
    let (client, server) = veth_pair();
    client.run(|| add_addresses("left", 1));
    server.run(|| add_addresses("right", 2));
    // So that no client waits for the other's link-layer address when its SYN is to be parked.
    client.run(|| {
        command("ping", "-c 1 -W 5 10.0.0.2");
        command("ping", "-6 -c 1 -W 5 fd00::2");
    });
    (client, server)
}

/// Clients whose SYNs have been sent and not answered.
pub(crate) struct Clients {
    sockets: Vec<Socket>,
}

impl Clients {
    pub(crate) fn start(number: usize, to: &str) -> Self {
        let to: SocketAddr = to.parse().unwrap();
        let start = |_| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            // EINPROGRESS: the answer comes later.
            let _ = socket.connect(&to.into());
            socket
        };
        Self { sockets: (0..number).map(start).collect() }
    }

    /// Waits until all are connected.
    pub(crate) fn all_connect(&self) {
        until(LONG, "all clients to be connected", || self.connected() == self.sockets.len());
    }

    pub(crate) fn connected(&self) -> usize {
        let refused: Vec<_> = self.sockets.iter().filter_map(|socket| socket.take_error().unwrap()).collect();
        assert!(refused.is_empty(), "refused: {refused:?}");
        self.sockets.iter().filter(|socket| socket.peer_addr().is_ok()).count()
    }
}

/// SYNs that were sent again in the calling thread's namespace.
pub(crate) fn retransmitted_syns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let index = names.split(' ').position(|name| name == "TCPSynRetrans").unwrap();
    values.split(' ').nth(index).unwrap().parse().unwrap()
}

/// Packets that wait in plugs, on all devices of the namespace.
pub(crate) fn parked() -> u64 {
    let text = command("tc", "-s qdisc show");
    let mut in_plug = false;
    let mut parked = 0;
    for line in text.lines() {
        if line.starts_with("qdisc") {
            in_plug = line.starts_with("qdisc plug");
        } else if let (true, Some(("", backlog))) = (in_plug, line.trim().split_once("backlog ")) {
            let packets = backlog.split_whitespace().nth(1).and_then(|packets| packets.strip_suffix('p'));
            parked += packets.and_then(|packets| packets.parse::<u64>().ok()).unwrap();
        }
    }
    parked
}

pub(crate) fn wait_for_parked(number: u64) {
    until(LONG, &format!("{number} parked SYNs"), || parked() >= number);
    assert_eq!(parked(), number);
}

/// Whether a new connection is answered at once: nothing of it is parked.
pub(crate) fn connects(to: &str) {
    let to = to.parse().unwrap();
    std::net::TcpStream::connect_timeout(&to, LONG).unwrap_or_else(|error| panic!("{to}: {error}"));
}

/// Sends a packet that begins with the IP header.
pub(crate) fn send_raw(packet: &[u8], to: &str) {
    let to: IpAddr = to.parse().unwrap();
    const IPPROTO_RAW: i32 = 255;
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(IPPROTO_RAW))).unwrap();
    socket.send_to(packet, &SocketAddr::new(to, 0).into()).unwrap();
}

/// A SYN to [`PORT`], from a port that nobody has. Its checksum is wrong: it is there to be parked.
pub(crate) fn syn() -> Vec<u8> {
    let mut header = vec![0; 20];
    header[..2].copy_from_slice(&9_u16.to_be_bytes());
    header[2..4].copy_from_slice(&PORT.to_be_bytes());
    header[12..14].copy_from_slice(&[0x50, 0x02]);
    header
}

pub(crate) fn footprint() -> Footprint {
    Footprint::take(Path::new("/nonexistent/hold-qdisc"))
}

/// Accepts until the other end closes, so that a listener that is held by nobody answers.
pub(crate) fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || stream.read(&mut [0]));
        }
    });
}

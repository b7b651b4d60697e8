//! Makes clients that wait and servers that come late, and reads from tc what is parked.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use reloader::gate::hold::{Spec, Target};
use reloader::gate::qdisc::{QdiscError, QdiscGate};
use reloader_tests::footprint::Footprint;
use reloader_tests::poll::until;
use socket2::{Domain, Protocol, Socket, Type};

use reloader_tests::network::{Namespace, addressed_pair, command};
use reloader_tests::waiting::{Client, start_clients, until_connected};

pub(crate) const PORT: u16 = 8080;
/// Longer than any step takes with an emulated kernel.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Whether the kernel has sch_plug. In a guest of `cargo xtask test --kernels` it must have it.
pub(crate) fn kernel_has_plug() -> bool {
    let has = Namespace::new().run(|| match QdiscGate::prepare(&spec(1, &["127.0.0.1:1"])) {
        Err(error @ QdiscError::NoModule { .. }) => {
            eprintln!("not tested: {error}");
            false
        }
        prepared => prepared.map(drop).is_ok() || std::env::var_os("RELOADER_GUEST").is_some(),
    });
    assert!(has || std::env::var_os("RELOADER_GUEST").is_none(), "a guest's kernel must have sch_plug");
    has
}

pub(crate) fn spec(id: u16, targets: &[&str]) -> Spec {
    let target = |text: &&str| Target { address: text.parse().unwrap(), v6only: true, interface: 0 };
    Spec { id, targets: targets.iter().map(target).collect(), exceptions: Vec::new(), capacity: 1 << 20 }
}

/// A client's and a server's namespace with addresses of both families, which know each other's link-layer address. Without
/// it a client's SYN would wait for that address.
pub(crate) fn reachable_pair() -> (Namespace, Namespace) {
    let (client, server) = addressed_pair();
    client.run(|| {
        command("ping", "-c 1 -W 5 10.0.0.2");
        command("ping", "-6 -c 1 -W 5 fd00::2");
    });
    (client, server)
}

/// Clients whose SYNs have been sent and not answered.
pub(crate) struct Clients(Vec<Client>);

impl Clients {
    pub(crate) fn start(number: usize, to: &str) -> Self {
        Self(start_clients(to.parse().unwrap(), number))
    }

    /// Waits until all are connected.
    pub(crate) fn all_connect(&self) {
        until_connected(&self.0);
    }

    pub(crate) fn connected(&self) -> usize {
        self.0.iter().filter(|client| client.is_connected()).count()
    }
}

/// The number of packets that are parked in plugs, on all devices of the namespace.
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

/// Panics unless a new connection is answered at once: no part of it is parked.
pub(crate) fn connects(to: &str) {
    let to = to.parse().unwrap();
    std::net::TcpStream::connect_timeout(&to, LONG).unwrap_or_else(|error| panic!("{to}: {error}"));
}

/// Sends a packet that begins with its IP header.
pub(crate) fn send_raw(packet: &[u8], to: &str) {
    let to: IpAddr = to.parse().unwrap();
    const IPPROTO_RAW: i32 = 255;
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(IPPROTO_RAW))).unwrap();
    socket.send_to(packet, &SocketAddr::new(to, 0).into()).unwrap();
}

/// A SYN to [`PORT`] from an unused port. Its checksum is wrong: the SYN is only there to be parked.
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

/// Accepts connections, and keeps each until the other end closes it. So a listener whose SYNs are not held answers.
pub(crate) fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || stream.read(&mut [0]));
        }
    });
}

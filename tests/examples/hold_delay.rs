//! Measures what a hold adds to a bind window, and how fast parked SYNs are delivered.
//!
//! ```text
//! cargo build --release -p reloader
//! RELOADER_BIN=target/release/reloader cargo run --release -p reloader-tests --example hold_delay [HOLDS]
//! ```
//! Run it as root. It uses the eBPF gate on `lo`, in its own network namespace.
#![expect(clippy::disallowed_methods, reason = "a measurement; no daemon's loop is here")]

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use reloader::gate::hold::{Backend, Hold, HoldRequest, Target};
use reloader::sys::Inheritance;
use reloader_tests::{limits, netns, rig};
use socket2::{Domain, Protocol, Socket, Type};
use std::os::fd::AsFd;

const BATCH: usize = 10_000;
/// How long the port has no listener. One client starts in each millisecond of it.
const WINDOW: Duration = Duration::from_millis(30);

fn main() {
    let holds = std::env::args().nth(1).map_or(100, |holds| holds.parse().expect("a number of holds"));
    let inheritance = Inheritance::capture().expect("reading the limits");
    limits::raise_open_files();
    netns::enter();
    for (name, value) in [("net/ipv4/tcp_max_syn_backlog", "32768"), ("net/core/somaxconn", "32768")] {
        netns::sysctl(name, value);
    }
    let address: SocketAddr = "127.0.0.1:8000".parse().expect("an address");
    delays(address, holds, &inheritance);
    deliveries(address, &inheritance);
}

fn delays(address: SocketAddr, holds: usize, inheritance: &Inheritance) {
    let mut added: Vec<f64> = (0..holds).map(|_| added_delay(address, inheritance)).collect();
    added.sort_by(f64::total_cmp);
    println!(
        "longest delay minus bind window, {holds} holds: median {:.2} ms, worst {:.2} ms",
        added[added.len() / 2],
        added[added.len() - 1]
    );
}

/// The longest wait of a client minus the time without a listener, in milliseconds.
fn added_delay(address: SocketAddr, inheritance: &Inheritance) -> f64 {
    let old = listen(address);
    let hold = hold(address, inheritance);
    drop(old);
    let closed = Instant::now();
    let mut clients = Vec::new();
    while closed.elapsed() < WINDOW {
        clients.push((Instant::now(), connect(address)));
        std::thread::sleep(Duration::from_millis(1));
    }
    let _new = listen(address);
    let window = closed.elapsed();
    let waiting = std::thread::spawn(move || {
        let delays = clients.iter().map(|(began, client)| {
            wait_until_connected(client);
            began.elapsed()
        });
        delays.max().unwrap_or_default()
    });
    hold.release();
    let longest = waiting.join().expect("the clients");
    (longest.as_secs_f64() - window.as_secs_f64()) * 1000.0
}

fn deliveries(address: SocketAddr, inheritance: &Inheritance) {
    let _listener = listen(address);
    for round in 1..=3 {
        let began = Instant::now();
        let clients: Vec<Socket> = (0..BATCH).map(|_| connect(address)).collect();
        clients.iter().for_each(wait_until_connected);
        let free = began.elapsed();
        drop(clients);

        let _listener = emptied_queue(_listener.try_clone().expect("a duplicate"));
        let hold = hold(address, inheritance);
        let clients: Vec<Socket> = (0..BATCH).map(|_| connect(address)).collect();
        let began = Instant::now();
        let waiting = std::thread::spawn(move || clients.iter().for_each(wait_until_connected));
        let ended = hold.release();
        waiting.join().expect("the clients");
        let held = began.elapsed();
        println!(
            "round {round}: {BATCH} handshakes that were not held {:.0} ms; {} parked SYNs, from release to the last handshake {:.0} ms",
            free.as_secs_f64() * 1000.0,
            ended.stats.released,
            held.as_secs_f64() * 1000.0
        );
        emptied_queue(_listener);
    }
}

/// Accepts and closes every queued connection.
fn emptied_queue(listener: TcpListener) -> TcpListener {
    listener.set_nonblocking(true).expect("fcntl");
    while listener.accept().is_ok() {}
    listener
}

fn hold(address: SocketAddr, inheritance: &Inheritance) -> Hold {
    let runtime_dir = std::env::temp_dir().join(format!("hold-delay-{}", std::process::id()));
    let wanted = HoldRequest {
        targets: vec![Target { address, v6only: false, interface: 0 }],
        exceptions: Vec::new(),
        old: Default::default(),
        netns_path: None,
        backend: Some(Backend::Ebpf),
        capacity: 16 << 20,
        max: Duration::from_secs(30),
        runtime_dir,
        program: rig::binary().canonicalize().expect("the reloader binary"),
        inheritance: inheritance.clone(),
    };
    Hold::begin(wanted).unwrap_or_else(|error| panic!("{error}"))
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&address.into()).expect("bind");
    socket.listen(32_768).expect("listen");
    socket.into()
}

fn connect(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("socket");
    socket.set_nonblocking(true).expect("fcntl");
    // A reset at the close leaves no TIME_WAIT; there would be tens of thousands of them.
    socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    let _ = socket.connect(&address.into());
    socket
}

fn wait_until_connected(socket: &Socket) {
    let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut ready, PollTimeout::NONE).expect("poll");
    assert!(socket.take_error().expect("SO_ERROR").is_none(), "a client was refused");
}

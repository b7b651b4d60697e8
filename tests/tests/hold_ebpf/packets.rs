//! Holds SYNs of every shape.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::process::{Child, Command, Stdio};

use reloader::gate::hold::Gate as _;
use reloader_tests::guest;
use reloader_tests::network::{Namespace, addressed_pair, command, ip};
use reloader_tests::packet::{SYN, segment};
use reloader_tests::waiting::{listener, retransmits};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::at;
use super::rig::{best, hold, hooks, release, spec, until_held};

/// Whether Python is missing. Guests have none, so only the host sends these packets.
fn has_no_python() -> bool {
    let is_missing = guest::is_guest() && Command::new("python3").arg("-V").output().is_err();
    if is_missing {
        guest::report_skipped("guests have no python3 to send these packets");
    }
    is_missing
}

/// Starts a client with a socket option for which Rust would need unsafe code.
fn client(kind: &str, address: &str) -> Python {
    let address = at(address);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hold_ebpf/client.py");
    let child = Command::new("python3")
        .args([script, kind, &address.ip().to_string(), &address.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Python(child)
}

/// A Python process, which is ended when the test fails.
struct Python(Child);

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn line(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// Accepts one connection, answers it, and returns the number of bytes that it had sent.
fn greet(listener: &TcpListener) -> usize {
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"hello").unwrap();
    let mut buffer = [0; 2000];
    stream.set_nonblocking(true).unwrap();
    std::io::Read::read(&mut stream, &mut buffer).unwrap_or(0)
}

#[test]
fn syns_with_ip_options_and_extension_headers_are_held() {
    assert_held_each_way("options", 0);
}

#[test]
fn fast_open_syn_keeps_its_data() {
    assert_held_each_way("fastopen", 1000);
}

fn assert_held_each_way(kind: &str, data: usize) {
    if has_no_python() {
        return;
    }
    // Without cookies: send (4) and accept (0x200) data in a SYN, for every listener (0x400).
    let fast_open = || std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1543").unwrap();
    for hook in hooks() {
        let (remote, local) = addressed_pair();
        remote.run(fast_open);
        local.run(|| {
            fast_open();
            for address in ["127.0.0.1:8080", "[::1]:8080", "10.0.0.2:8080", "[fd00::2]:8080"] {
                let by_lo = at(address).ip().is_loopback();
                let start = || client(kind, address);
                let mut gate = hold(hook, &spec(&[address]));
                let mut client = if by_lo { start() } else { remote.run(start) };
                until_held(&mut gate, 1);
                let listener = listener(address);
                release(&mut gate, 1);
                assert_eq!(greet(&listener), data, "{kind}, {hook:?}, {address}");
                assert_eq!(line(&mut BufReader::new(client.0.stdout.take().unwrap())), "hello");
                assert!(client.0.wait().unwrap().success());
                assert_eq!((retransmits(), remote.run(retransmits)), (0, 0), "{kind}, {hook:?}, {address}");
            }
        });
    }
}

#[test]
fn link_local_address_of_this_host_is_held() {
    Namespace::new().run(|| {
        ip("link add left type veth peer name right");
        ip("link set left up");
        ip("link set right up");
        ip("addr add fe80::77/64 dev left nodad");
        let mut gate = hold(best(), &spec(&["[::]:8080"]));
        let index = std::fs::read_to_string("/sys/class/net/left/ifindex").unwrap_or_default();
        let scope = index.trim().parse().unwrap_or_else(|_| index_of("left"));
        let address = std::net::SocketAddrV6::new("fe80::77".parse().unwrap(), 8080, 0, scope);
        let clients = super::start_clients(address.into(), 3);
        until_held(&mut gate, 3);
        let _listener = listener("[::]:8080");
        release(&mut gate, 3);
        super::until_connected(&clients);
        assert_eq!(super::queued(), 3);
        assert_eq!(retransmits(), 0);
    });
}

/// The index is asked of `ip`, because `/sys` shows another namespace's devices.
fn index_of(device: &str) -> u32 {
    let link = command("ip", &format!("-oneline link show dev {device}"));
    link.split(':').next().unwrap().parse().unwrap()
}

#[test]
fn device_without_a_link_header_is_held() {
    if has_no_python() {
        return;
    }
    for hook in hooks() {
        Namespace::new().run(|| {
            let mut client = client("tun", "10.9.0.1:8080");
            let mut output = BufReader::new(client.0.stdout.take().unwrap());
            assert_eq!(line(&mut output), "up");
            let mut gate = hold(hook, &spec(&["10.9.0.1:8080"]));
            client.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
            until_held(&mut gate, 1);
            let _listener = listener("10.9.0.1:8080");
            release(&mut gate, 1);
            assert_eq!(line(&mut output), "flags 0x12", "{hook:?}: SYN and ACK");
            assert!(client.0.wait().unwrap().success());
        });
    }
}

#[test]
fn retransmitted_syn_is_delivered_once() {
    Namespace::new().run(|| {
        let mut gate = hold(best(), &spec(&["127.0.0.1:8080"]));
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
        for source_port in [40_000, 40_000, 40_001, 40_000] {
            let [from, to] = [source_port, 8080].map(|port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
            raw.send_to(&segment(from, to, SYN), &SockAddr::from(to)).unwrap();
        }
        until_held(&mut gate, 4);
        let _listener = listener("127.0.0.1:8080");
        assert_eq!(gate.release().unwrap().released, 2);
    });
}

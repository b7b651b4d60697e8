//! Tests the eBPF gate with the running kernel: it delivers what it parks, in time, and affects nothing else. Every
//! test needs root to create network namespaces.

use std::net::SocketAddr;
use std::time::Duration;

use reloader::kernel::sock_diag;
use reloader_tests::network::{Namespace, addressed_pair, packet_path};

use reloader_tests::poll::until;
use reloader_tests::waiting::{
    listener, listener_with, raise_backlog_limits, retransmits, start_clients, until_connected,
};

mod faults;
mod neighbours;
mod packets;
mod rig;

use rig::{best, hold, hooks, release, spec, until_held};

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

#[test]
fn syns_on_lo_wait_for_their_listener() {
    for hook in hooks() {
        Namespace::new().run(|| {
            raise_backlog_limits();
            let before = packet_path();
            for address in ["127.0.0.1:8080", "[::1]:8080"] {
                let mut gate = hold(hook, &spec(&[address]));
                let clients = start_clients(at(address), 300);
                until_held(&mut gate, 300);
                let _listener = listener(address);
                let figures = release(&mut gate, 300);
                until_connected(&clients);
                assert_eq!(retransmits(), 0, "{hook:?}, {address}");
                let settled = gate.settled().unwrap();
                assert!(settled >= 300, "{hook:?}, {address}: each client's ACK finds its handshake, {settled} did");
                assert_eq!(queued(), 300, "{hook:?}, {address}");
                assert!(!figures.longest.is_zero());
                assert_eq!(packet_path(), before, "{hook:?}, {address}");
            }
        });
    }
}

/// A handshake by SYN cookie has no request socket. Its ACK, which clients do not send twice, finds the listener.
#[test]
fn syn_cookie_handshakes_complete() {
    for hook in hooks() {
        Namespace::new().run(|| {
            raise_backlog_limits();
            std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
            for address in ["127.0.0.1:8080", "[::1]:8080"] {
                let mut gate = hold(hook, &spec(&[address]));
                let clients = start_clients(at(address), 50);
                until_held(&mut gate, 50);
                let _listener = listener(address);
                release(&mut gate, 50);
                until_connected(&clients);
                assert_eq!((queued(), gate.settled().unwrap()), (50, 0), "{hook:?}, {address}");
            }
        });
    }
}

#[test]
fn syns_from_another_host_wait_for_their_listener() {
    for hook in hooks() {
        let (client, server) = addressed_pair();
        server.run(|| {
            raise_backlog_limits();
            let before = packet_path();
            for address in ["10.0.0.2:8080", "[fd00::2]:8080"] {
                let mut gate = hold(hook, &spec(&[address]));
                let clients = client.run(|| start_clients(at(address), 300));
                until_held(&mut gate, 300);
                let _listener = listener(address);
                release(&mut gate, 300);
                until_connected(&clients);
                assert_eq!(client.run(retransmits), 0, "{hook:?}, {address}");
                assert_eq!(packet_path(), before, "{hook:?}, {address}");
            }
        });
    }
}

/// More SYNs than the listener's queue takes at once: a full queue drops a SYN without an answer.
#[test]
fn many_syns_fit_into_a_short_accept_queue() {
    reloader_tests::limits::raise_open_files();
    for address in ["127.0.0.1:8080", "10.0.0.2:8080"] {
        let (client, server) = addressed_pair();
        server.run(|| {
            raise_backlog_limits();
            let mut gate = hold(best(), &spec(&[address]));
            let is_local = at(address).ip().is_loopback();
            let mut clients = Vec::new();
            // In several turns, because the lease must be renewed between them.
            for turn in 1..=4 {
                let more = || start_clients(at(address), 500);
                clients.extend(if is_local { more() } else { client.run(more) });
                until_held(&mut gate, turn * 500);
            }
            let listener = listener_with(address, 256);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // Accepts only after the queue has stopped to grow.
                    let mut lengths = [0; 10];
                    until(Duration::from_secs(10), "the queue to stop growing", || {
                        lengths.rotate_left(1);
                        lengths[9] = queued();
                        lengths[0] > 200 && lengths[0] == lengths[9]
                    });
                    for _ in 0..2000 {
                        listener.accept().unwrap();
                    }
                });
                release(&mut gate, 2000);
            });
            until_connected(&clients);
            assert_eq!((retransmits(), client.run(retransmits)), (0, 0), "{address}");
        });
    }
}

fn queued() -> u32 {
    sock_diag::tcp_listeners().unwrap().iter().map(|listener| listener.queued).sum()
}

//! Tests the rig's idle connections: each way in which a connection can die is noticed.

use std::net::TcpListener;
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::idle::IdleConnections;
use reloader_tests::netns;
use reloader_tests::servers::{Reaction, Server};
use socket2::SockRef;

#[test]
fn open_connections_count_as_alive_and_answer() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Reaction::Reply);
    let mut idle = IdleConnections::open(server.address, 50);
    assert_eq!(idle.alive(), 50);
    assert_eq!(idle.count_answered(), 50);
}

#[test]
fn closed_and_reset_connections_count_as_dead() {
    netns::enter();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut idle = IdleConnections::open(listener.local_addr().unwrap(), 3);
    let closed = listener.accept().unwrap().0;
    let reset = listener.accept().unwrap().0;
    let _kept = listener.accept().unwrap().0;
    assert_eq!(idle.alive(), 3);
    drop(closed);
    SockRef::from(&reset).set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    assert_eq!(idle.alive(), 1);
    let how: Vec<&str> = idle.deaths().iter().map(|death| death.how.as_str()).collect();
    assert!(how.contains(&"closed") && how.iter().any(|how| how.contains("reset")), "{how:?}");
    assert!(idle.next_death(Duration::from_millis(10)).is_none());
}

/// The tests of reloader connect in the same way: through HAProxy to another server, so that a retired generation keeps the connections.
#[test]
fn connections_through_haproxy_survive_a_soft_stop_and_die_with_a_kill() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Reaction::Reply);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("haproxy.cfg");
    Config::new().tcp_proxy("idle", &["127.0.0.1:8080"], &server.address.to_string()).write(&file);
    let binary = HaproxyBinary::installed();
    let old = binary.daemonize(&file, &[]).unwrap();
    let mut idle = IdleConnections::open("127.0.0.1:8080", 100);
    let new = binary.daemonize(&file, &["-sf", &old.process.pid.to_string()]).unwrap();
    assert_eq!((idle.alive(), old.process.is_alive()), (100, true));

    let mut doomed = IdleConnections::open("127.0.0.1:8080", 10);
    assert_eq!(idle.count_answered(), 100, "{:?}", idle.deaths());
    drop(new);
    assert!(doomed.next_death(Duration::from_secs(5)).is_some());
}

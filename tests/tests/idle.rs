//! The holder of idle connections notices each way to die.

use std::net::TcpListener;
use std::time::Duration;

use reloader_tests::idle::Idle;
use reloader_tests::netns;
use reloader_tests::servers::{Manner, Server};
use socket2::SockRef;

#[test]
fn live_connections_are_alive_and_answer() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Manner::Reply);
    let mut idle = Idle::open(server.address, 50);
    assert_eq!(idle.alive(), 50);
    assert_eq!(idle.prove(), 50);
}

#[test]
fn closed_and_reset_ones_are_noticed() {
    netns::enter();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut idle = Idle::open(listener.local_addr().unwrap(), 3);
    let closed = listener.accept().unwrap().0;
    let reset = listener.accept().unwrap().0;
    let _kept = listener.accept().unwrap().0;
    assert_eq!(idle.alive(), 3);
    drop(closed);
    SockRef::from(&reset)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(reset);
    assert_eq!(idle.alive(), 1);
    let how: Vec<&str> = idle
        .deaths()
        .iter()
        .map(|death| death.how.as_str())
        .collect();
    assert!(
        how.contains(&"closed") && how.iter().any(|how| how.contains("reset")),
        "{how:?}"
    );
    assert!(idle.next_death(Duration::from_millis(10)).is_none());
}

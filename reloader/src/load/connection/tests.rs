use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use super::session::{LAST_CHUNK, ONE_BYTE_CHUNK};
use super::*;

fn options(exchange: Exchange) -> Arc<ConnectionOptions> {
    Arc::new(ConnectionOptions { exchange, tls: None, proxy_protocol: false, keep_alive: false })
}

fn get() -> Exchange {
    Exchange::Http(b"GET / HTTP/1.0\r\n\r\n"[..].into())
}

/// The reset must arrive before the connection is driven again. In a running load that is a matter of luck.
#[test]
fn reset_before_connect_is_a_separate_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = SockAddr::from(listener.local_addr().unwrap());
    let mut connection = Connection::open(Domain::IPV4, &address, options(get())).unwrap();
    connection.connect().unwrap();
    connection.phase = Phase::Connecting;
    let accepted = Socket::from(listener.accept().unwrap().0);
    accepted.set_linger(Some(Duration::ZERO)).unwrap();
    drop(accepted);
    assert_eq!(connection.drive(), Advance::Done(Err(Failure::ResetBeforeConnect)));
}

#[test]
fn connection_to_itself_counts_as_refused() {
    let any = SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut connection = Connection::open(Domain::IPV4, &any, options(Exchange::Close)).unwrap();
    connection.socket().bind(&any).unwrap();
    connection.address = connection.socket().local_addr().unwrap();
    assert_eq!(connection.drive(), Advance::Done(Err(Failure::Refused)));
}

#[test]
fn drive_returns_before_all_data_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    for exchange in [Exchange::Close, get()] {
        let address = SockAddr::unix(&path).unwrap();
        let mut connection = Connection::open(Domain::UNIX, &address, options(exchange)).unwrap();
        connection.connect().unwrap();
        connection.phase = Phase::Connecting;
        let mut accepted = listener.accept().unwrap().0;
        accepted.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        accepted.write_all(&[b'x'; (MAX_READS_PER_TURN + 1) * READ_BUFFER_BYTES]).unwrap();
        assert_eq!(connection.drive(), Advance::RunAgain);
        assert_eq!(connection.drive(), Advance::WaitForSocket);
    }
}

/// A connection with this exchange that is established, and the server's side of it.
fn established(exchange: Exchange) -> (Connection, UnixStream) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let address = SockAddr::unix(&path).unwrap();
    let mut connection = Connection::open(Domain::UNIX, &address, options(exchange)).unwrap();
    connection.connect().unwrap();
    connection.phase = Phase::Connecting;
    let accepted = listener.accept().unwrap().0;
    accepted.set_nonblocking(true).unwrap();
    (connection, accepted)
}

/// Reads while the connection is driven, until neither goes on.
fn received(connection: &mut Connection, server: &mut UnixStream) -> Vec<u8> {
    let mut received = Vec::new();
    loop {
        let before = received.len();
        let _ = server.read_to_end(&mut received);
        if connection.drive() == Advance::WaitForSocket && received.len() == before {
            return received;
        }
    }
}

#[test]
fn request_that_exceeds_the_buffer_is_sent_as_the_server_reads() {
    let request = vec![b'x'; 1 << 20];
    let (mut connection, mut server) = established(Exchange::Http(request[..].into()));
    assert_eq!(connection.drive(), Advance::RunAgain);
    assert_eq!(received(&mut connection, &mut server).len(), request.len());
}

#[test]
fn end_of_a_session_that_meets_a_full_buffer_is_sent_later() {
    let (mut connection, mut server) = established(Exchange::Session(SessionContent::Request(b"head"[..].into())));
    assert_eq!(connection.drive(), Advance::WaitForSocket);
    // A body of which the server reads nothing.
    let unread = std::iter::from_fn(|| connection.socket().send(ONE_BYTE_CHUNK).ok()).sum::<usize>();
    (0..3).for_each(|_| assert_eq!(connection.continue_session(), Advance::WaitForSocket));
    assert_eq!(connection.end_session(), Advance::RunAgain);
    let received = received(&mut connection, &mut server);
    let kept = [ONE_BYTE_CHUNK, LAST_CHUNK].concat();
    assert!(received.ends_with(&kept), "{:?}", received.last_chunk::<20>());
    assert_eq!(received.len(), b"head".len() + unread + kept.len());
}

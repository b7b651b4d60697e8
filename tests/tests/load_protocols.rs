//! Tests the load generator beyond one HTTP request for each connection: orderly close, TLS, keep-alive, and retransmitted segments.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use reloader::load::{Exchange, Failure, Load as LibraryLoad, Tls, TlsFailure};
use reloader_tests::config::Config;
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::load::{Load, Outcomes};
use reloader_tests::netns;
use reloader_tests::quic::certificate;
use reloader_tests::servers::{FullListener, Reaction, Server};

const KEPT: &[u8] = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

fn load(address: impl ToString, change: impl FnOnce(LibraryLoad) -> LibraryLoad) -> Outcomes {
    let load = Load::to([address.to_string().as_str()]).rate(200).connections(40);
    load.timeout(Duration::from_secs(5)).with(change).run()
}

fn keep(connections: usize) -> impl FnOnce(LibraryLoad) -> LibraryLoad {
    move |load| load.exchange(Exchange::Http(KEPT.into())).keep_alive(connections)
}

fn reasons(outcomes: &Outcomes) -> Vec<Failure> {
    let mut reasons: Vec<Failure> = outcomes.failures().map(|outcome| outcome.result.unwrap_err()).collect();
    reasons.sort();
    reasons.dedup();
    reasons
}

/// Calls `handle` for each connection, on a thread of its own, until the process ends.
fn serve(handle: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || handle(stream));
        }
    });
    address
}

/// Reads a request; false at the end of the stream.
fn read_request(stream: &mut TcpStream) -> bool {
    stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0)
}

#[test]
fn orderly_close_is_a_success_and_silence_times_out() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Reaction::Empty);
    load(server.address, |load| load.exchange(Exchange::Close)).assert_lossless();
    let silent = Server::start("127.0.0.1:0", Reaction::Silent);
    let unanswered = load(silent.address, |load| load.exchange(Exchange::Close).timeout(Duration::from_millis(300)));
    assert_eq!((reasons(&unanswered), unanswered.summary().timeout), (vec![Failure::Timeout], 40));
}

/// As in a careless reload: the connections are established and queued, but never accepted.
#[test]
fn discarded_accept_queue_is_detected_without_sending_data() {
    netns::enter();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let load = Load::to([address.as_str()]).connections(20).with(|load| load.exchange(Exchange::Close));
    let running = load.start();
    running.until_started(20);
    drop(listener);
    let summary = running.wait().summary();
    assert_eq!((summary.reset(), summary.failed()), (20, 20), "{summary}");
}

#[test]
fn tls_is_served_and_plain_text_is_reported_as_not_tls() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let bind = format!("127.0.0.1:8443 ssl crt {}", certificate(dir.path()).display());
    let config = dir.path().join("haproxy.cfg");
    Config::web(&bind).write(&config);
    let _server = HaproxyBinary::installed().daemonize(&config, &[]).unwrap();
    let tls = |http| Tls::new("web.example", http).unwrap();
    load("127.0.0.1:8443", |load| load.tls(tls(false)).exchange(Exchange::Close)).assert_lossless();
    load("127.0.0.1:8443", |load| load.tls(tls(true))).assert_lossless();
    let kept = load("127.0.0.1:8443", |load| keep(4)(load.tls(tls(true))));
    kept.assert_lossless();
    assert_eq!(kept.connections, 4);

    let plain = Server::start("127.0.0.1:0", Reaction::Reply);
    let wrong = load(plain.address, |load| load.tls(tls(false)).exchange(Exchange::Close));
    assert_eq!(reasons(&wrong), [Failure::Tls(TlsFailure::NotTls)]);
}

#[test]
fn tls_version_mismatch_is_reported_as_an_alert() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let bind = format!("127.0.0.1:8443 ssl crt {} ssl-max-ver TLSv1.1", certificate(dir.path()).display());
    let config = dir.path().join("haproxy.cfg");
    Config::web(&bind).global("ssl-default-bind-options ssl-min-ver TLSv1.0").write(&config);
    let _server = HaproxyBinary::installed().daemonize(&config, &[]).unwrap();
    let outcomes = load("127.0.0.1:8443", |load| load.tls(Tls::new("127.0.0.1", false).unwrap()));
    assert!(matches!(reasons(&outcomes)[..], [Failure::Tls(TlsFailure::Alert(_))]), "{outcomes}");
}

#[test]
fn keep_alive_opens_no_more_connections_than_requested() {
    netns::enter();
    let address = serve(|mut stream| while read_request(&mut stream) && stream.write_all(REPLY).is_ok() {});
    let outcomes = load(address, keep(3));
    outcomes.assert_lossless();
    assert_eq!((outcomes.connections, outcomes.closed_between, outcomes.all.len()), (3, 0, 40));
}

#[test]
fn close_between_two_requests_loses_nothing() {
    netns::enter();
    let announcing = serve(|mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let announced = load(announcing, keep(1));
    announced.assert_lossless();
    assert_eq!((announced.connections, announced.closed_between), (40, 0));
    // A connection that is still open when the next request is due would be closed during that request. A whole second lies between two
    // requests, because a busy machine may pause between the reply and the close.
    let silent = serve(|mut stream| {
        if read_request(&mut stream) {
            let _ = stream.write_all(REPLY);
        }
    });
    let slow = Load::to([silent.to_string().as_str()]).rate(1).connections(4).with(keep(1)).run();
    slow.assert_lossless();
    assert!(slow.closed_between >= 3, "{} closed, {} made", slow.closed_between, slow.connections);
}

#[test]
fn close_during_a_request_loses_the_request() {
    netns::enter();
    let address = serve(|mut stream| {
        if read_request(&mut stream) && stream.write_all(REPLY).is_ok() {
            read_request(&mut stream);
        }
    });
    let outcomes = load(address, keep(1));
    assert_eq!((reasons(&outcomes), outcomes.summary().empty), (vec![Failure::Empty], 20), "{outcomes}");
}

#[test]
fn truncated_or_non_http_reply_is_a_failure() {
    netns::enter();
    let truncated = |mut stream: TcpStream| {
        read_request(&mut stream);
        let _ = stream.write_all(&REPLY[..REPLY.len() - 1]);
    };
    assert_eq!(reasons(&load(serve(truncated), |load| load)), [Failure::CutShort]);
    assert_eq!(reasons(&load(serve(truncated), keep(2))), [Failure::CutShort]);
    let smtp = |mut stream: TcpStream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
    };
    assert_eq!(reasons(&load(serve(smtp), |load| load)), [Failure::NotHttp]);
}

/// An open loop does not wait for busy connections: the latency of a request counts from the time when it was due.
#[test]
fn latency_counts_from_when_a_request_was_due() {
    netns::enter();
    let address = serve(|mut stream| {
        while read_request(&mut stream) {
            std::thread::sleep(Duration::from_millis(50));
            if stream.write_all(REPLY).is_err() {
                return;
            }
        }
    });
    let outcomes = load(address, keep(1));
    outcomes.assert_lossless();
    // Forty requests, one after the other, take 50 ms each: the last one, due after 200 ms, ends after 2 s at the earliest.
    let slowest = outcomes.all.iter().map(|outcome| outcome.latency).max().unwrap();
    assert!(slowest >= Duration::from_millis(1700), "{slowest:?}");
    let timeout = Duration::from_millis(400);
    let timed_out = load(address, |load| keep(1)(load.timeout(timeout)));
    assert_eq!(reasons(&timed_out), [Failure::NoFreeConnection], "the server is blamed for a pool that is too small");
    assert!(timed_out.failures().count() >= 20, "{timed_out}");
}

/// A request that hangs on a connection counts as the server's timeout, even if it waited for the connection before.
#[test]
fn hanging_server_gives_timeouts_and_missing_connections() {
    netns::enter();
    let silent = Server::start("127.0.0.1:0", Reaction::Silent);
    let hung = load(silent.address, |load| keep(2)(load.timeout(Duration::from_millis(300))));
    assert_eq!(reasons(&hung), [Failure::Timeout, Failure::NoFreeConnection]);
}

#[test]
fn retransmitted_syn_is_counted() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Reaction::Reply);
    let none = load(server.address, |load| load);
    assert!(none.all.iter().all(|outcome| outcome.syn_resent == Some(false)), "{none}");

    let full = FullListener::start();
    let running = Load::to([full.address]).connections(1).start();
    running.until_started(1);
    full.serve_all(1);
    let one = running.wait();
    assert_eq!((one.all[0].syn_resent, one.summary().syn_resent), (Some(true), 1), "{one}");
    assert!(one.all[0].segments_resent >= Some(1), "{:?}", one.all[0]);
}

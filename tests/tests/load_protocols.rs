//! What the generator knows beyond one HTTP request a connection: closing in good order, TLS, connections that are kept, and
//! what TCP had to send again.

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

/// Treats each connection with `treat`, on a thread of its own, until the process ends.
fn serve(treat: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || treat(stream));
        }
    });
    address
}

/// Reads a request; false at the end.
fn request(stream: &mut TcpStream) -> bool {
    stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0)
}

#[test]
fn closing_in_good_order_is_a_success_and_a_reset_is_none() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Reaction::Empty);
    load(server.address, |load| load.exchange(Exchange::Close)).assert_lossless();
    let silent = Server::start("127.0.0.1:0", Reaction::Silent);
    let held = load(silent.address, |load| load.exchange(Exchange::Close).timeout(Duration::from_millis(300)));
    assert_eq!((reasons(&held), held.summary().timeout), (vec![Failure::Timeout], 40));
}

/// What a reload without any care does: established, queued, never accepted.
#[test]
fn a_queue_that_is_thrown_away_is_found_though_nothing_was_sent() {
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
fn tls_and_what_is_none() {
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
fn a_server_that_wants_another_tls_says_so() {
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
fn connections_are_kept_and_no_more_than_were_asked_for() {
    netns::enter();
    let address = serve(|mut stream| while request(&mut stream) && stream.write_all(REPLY).is_ok() {});
    let outcomes = load(address, keep(3));
    outcomes.assert_lossless();
    assert_eq!((outcomes.connections, outcomes.closed_between, outcomes.all.len()), (3, 0, 40));
}

#[test]
fn a_close_between_two_requests_loses_nothing() {
    netns::enter();
    let says_so = serve(|mut stream| {
        request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let told = load(says_so, keep(1));
    told.assert_lossless();
    assert_eq!((told.connections, told.closed_between), (40, 0));
    // One that is still open when the next is due would be closed under it: a whole second is between them, for a machine
    // that does something else between the reply and the close.
    let silently = serve(|mut stream| {
        if request(&mut stream) {
            let _ = stream.write_all(REPLY);
        }
    });
    let slowly = Load::to([silently.to_string().as_str()]).rate(1).connections(4).with(keep(1)).run();
    slowly.assert_lossless();
    assert!(slowly.closed_between >= 3, "{} closed, {} made", slowly.closed_between, slowly.connections);
}

#[test]
fn a_close_under_a_request_loses_it() {
    netns::enter();
    let address = serve(|mut stream| {
        if request(&mut stream) && stream.write_all(REPLY).is_ok() {
            request(&mut stream);
        }
    });
    let outcomes = load(address, keep(1));
    assert_eq!((reasons(&outcomes), outcomes.summary().empty), (vec![Failure::Empty], 20), "{outcomes}");
}

#[test]
fn a_reply_that_is_cut_short_is_no_success() {
    netns::enter();
    let short = |mut stream: TcpStream| {
        request(&mut stream);
        let _ = stream.write_all(&REPLY[..REPLY.len() - 1]);
    };
    assert_eq!(reasons(&load(serve(short), |load| load)), [Failure::CutShort]);
    assert_eq!(reasons(&load(serve(short), keep(2))), [Failure::CutShort]);
    let other = |mut stream: TcpStream| {
        request(&mut stream);
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
    };
    assert_eq!(reasons(&load(serve(other), |load| load)), [Failure::NotHttp]);
}

/// An open loop does not wait for connections that are busy: what is due counts from when it was.
#[test]
fn requests_that_wait_for_a_connection_are_late_from_when_they_were_due() {
    netns::enter();
    let address = serve(|mut stream| {
        while request(&mut stream) {
            std::thread::sleep(Duration::from_millis(50));
            if stream.write_all(REPLY).is_err() {
                return;
            }
        }
    });
    let outcomes = load(address, keep(1));
    outcomes.assert_lossless();
    // Forty, one after the other, each taking 50 ms: the last, due after 200 ms, ends no earlier than after 2 s.
    let slowest = outcomes.all.iter().map(|outcome| outcome.latency).max().unwrap();
    assert!(slowest >= Duration::from_millis(1700), "{slowest:?}");
    let patient = Duration::from_millis(400);
    let given_up = load(address, |load| keep(1)(load.timeout(patient)));
    assert_eq!(reasons(&given_up), [Failure::NoFreeConnection], "a pool that is too small is no fault of the server");
    assert!(given_up.failures().count() >= 20, "{given_up}");
}

/// What hangs on a connection is the server's fault, however long it waited for that before.
#[test]
fn a_server_that_hangs_is_found_by_those_on_its_connections() {
    netns::enter();
    let silent = Server::start("127.0.0.1:0", Reaction::Silent);
    let hung = load(silent.address, |load| keep(2)(load.timeout(Duration::from_millis(300))));
    assert_eq!(reasons(&hung), [Failure::Timeout, Failure::NoFreeConnection]);
}

#[test]
fn a_syn_that_is_sent_again_is_seen() {
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

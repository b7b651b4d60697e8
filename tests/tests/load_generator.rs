//! The generator tells its failures apart, against servers that fail in a known way.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use reloader_tests::load::{Load, Outcomes, Span, Summary, Target};
use reloader_tests::netns;
use reloader_tests::servers::{FullListener, Reaction, Server};
use socket2::{Domain, SockAddr, Socket, Type};

fn against(reaction: Reaction) -> Summary {
    netns::enter();
    let server = Server::start("127.0.0.1:0", reaction);
    load(server.address).summary()
}

fn load(target: impl Into<Target>) -> Outcomes {
    Load::to([target.into()]).rate(500).connections(50).timeout(Duration::from_secs(3)).run()
}

#[test]
#[ignore = "alone: judges latency"]
fn served() {
    let summary = against(Reaction::Reply);
    assert_eq!((summary.ok, summary.failed(), summary.slow), (50, 0, 0), "{summary}");
}

#[test]
fn served_over_ipv6_and_every_target_in_turn() {
    netns::enter();
    let servers = [Server::start("[::1]:0", Reaction::Reply), Server::start("127.0.0.1:0", Reaction::Reply)];
    let outcomes = Load::to(servers.iter().map(|server| server.address)).connections(40).run();
    outcomes.assert_lossless();
    assert_eq!(outcomes.all.iter().filter(|outcome| outcome.target == 1).count(), 20);
}

#[test]
fn refused() {
    netns::enter();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let summary = load(closed).summary();
    assert_eq!((summary.refused, summary.failed()), (50, 50), "{summary}");
}

#[test]
fn a_unix_path_that_is_not_there_is_refused() {
    let summary = load("/nonexistent/socket").summary();
    assert_eq!(summary.refused, 50, "{summary}");
}

#[test]
fn reset_after_connect() {
    let summary = against(Reaction::Reset);
    assert_eq!((summary.reset_after_connect, summary.failed()), (50, 50), "{summary}");
}

#[test]
fn closed_listener_resets_what_it_had_queued() {
    netns::enter();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let running = Load::to([listener.local_addr().unwrap()]).connections(20).start();
    running.until_started(20);
    drop(listener);
    let summary = running.wait().summary();
    assert_eq!(summary.reset(), 20, "{summary}");
}

#[test]
fn empty_reply() {
    let summary = against(Reaction::Empty);
    assert_eq!((summary.empty, summary.failed()), (50, 50), "{summary}");
}

#[test]
fn timeout_of_a_silent_server() {
    let summary = against(Reaction::Silent);
    assert_eq!((summary.timeout, summary.failed()), (50, 50), "{summary}");
}

#[test]
fn timeout_of_a_full_backlog() {
    netns::enter();
    let full = FullListener::start();
    let summary = Load::to([full.address]).connections(5).timeout(Duration::from_millis(700)).run().summary();
    assert_eq!((summary.timeout, summary.failed()), (5, 5), "{summary}");
}

#[test]
fn a_lost_syn_is_slow_and_not_failed() {
    netns::enter();
    let full = FullListener::start();
    let running = Load::to([full.address]).connections(1).start();
    running.until_started(1);
    full.serve_all(1);
    let summary = running.wait().summary();
    assert_eq!((summary.ok, summary.slow), (1, 1), "{summary}");
}

/// A unix connect does not wait in the kernel but fails with EAGAIN; who would call that a loss would blame the server for
/// a queue that it is about to serve.
#[test]
fn a_full_unix_backlog_is_waited_out_or_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full.sock");
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let load = || Load::to([path.clone()]).connections(5).timeout(Duration::from_millis(300));
    let summary = load().run().summary();
    assert_eq!((summary.timeout, summary.failed()), (5, 5), "{summary}");

    let running = load().timeout(Duration::from_secs(5)).start();
    running.until_started(5);
    assert_eq!(running.finished(), 0);
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let _ = client.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
            let _ = client.shutdown(std::net::Shutdown::Write);
            let _ = client.read_to_end(&mut Vec::new());
        }
    });
    let summary = running.wait().summary();
    assert_eq!(summary.ok, 5, "{summary}");
}

#[test]
fn a_reply_that_is_not_200_is_not_a_success() {
    let summary = against(Reaction::Unavailable);
    assert_eq!(summary.other.get("HTTP 503"), Some(&50), "{summary}");
}

#[test]
fn what_has_no_class_keeps_its_text() {
    netns::enter();
    let nowhere = load("192.0.2.1:80");
    let summary = nowhere.summary();
    assert!(summary.other.keys().any(|text| text.contains("ENETUNREACH")), "{summary}");
}

/// Late replies hold nothing up: with 50 due in 0.1 s and each taking 0.5 s, a closed loop would need 25 s.
#[test]
fn open_loop() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Reaction::Late(Duration::from_millis(500)));
    let outcomes = load(server.address);
    outcomes.assert_lossless();
    let together = outcomes.all.iter().map(|outcome| outcome.scheduled).max().unwrap();
    let first_end = outcomes.all.iter().map(|outcome| outcome.scheduled + outcome.latency).min().unwrap();
    assert!(together < first_end, "the last was due before the first had ended");
}

#[test]
fn failures_belong_to_the_window_in_which_they_happened() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Reaction::Reply);
    let address = server.address;
    let running = Load::to([address]).rate(500).start();
    running.until_started(100);
    let span = Span::begin("gone");
    drop(server);
    running.until_further(100);
    let window = span.end();
    let server = Server::start(&address.to_string(), Reaction::Reply);
    running.until_further(100);
    let outcomes = running.stop();
    drop(server);
    let groups = outcomes.by_window(&[window]);
    let failed =
        |label: &str| groups.iter().find(|(known, _)| known == label).map_or(0, |(_, summary)| summary.failed());
    assert!(failed("gone") >= 90, "{outcomes}");
    // Between the end of the window and the new server a few more may fail.
    assert!(failed("between") <= 10, "{outcomes}");
}

#[test]
fn a_generator_that_cannot_keep_its_schedule_says_so() {
    netns::enter();
    let outcomes = Load::to(["127.0.0.1:1"]).rate(10_000_000).connections(20_000).run();
    assert!(!outcomes.kept_schedule());
    assert!(outcomes.to_string().contains("FELL BEHIND"), "{outcomes}");
}

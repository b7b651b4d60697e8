//! Tests that the load generator classifies failures, against servers that fail in a known way.

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
fn served_connections_are_neither_failed_nor_slow() {
    let summary = against(Reaction::Reply);
    assert_eq!((summary.ok, summary.failed(), summary.slow), (50, 0, 0), "{summary}");
}

#[test]
fn targets_take_turns_and_ipv6_is_served() {
    netns::enter();
    let servers = [Server::start("[::1]:0", Reaction::Reply), Server::start("127.0.0.1:0", Reaction::Reply)];
    let outcomes = Load::to(servers.iter().map(|server| server.address)).connections(40).run();
    outcomes.assert_lossless();
    assert_eq!(outcomes.all.iter().filter(|outcome| outcome.target == 1).count(), 20);
}

#[test]
fn closed_port_counts_as_refused() {
    netns::enter();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let summary = load(closed).summary();
    assert_eq!((summary.refused, summary.failed()), (50, 50), "{summary}");
}

#[test]
fn missing_unix_path_counts_as_refused() {
    let summary = load("/nonexistent/socket").summary();
    assert_eq!(summary.refused, 50, "{summary}");
}

#[test]
fn reset_connection_counts_as_reset_after_connect() {
    let summary = against(Reaction::Reset);
    assert_eq!((summary.reset_after_connect, summary.failed()), (50, 50), "{summary}");
}

#[test]
fn closing_a_listener_resets_its_queue() {
    netns::enter();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let running = Load::to([listener.local_addr().unwrap()]).connections(20).start();
    running.until_started(20);
    drop(listener);
    let summary = running.wait().summary();
    assert_eq!(summary.reset(), 20, "{summary}");
}

#[test]
fn close_without_a_reply_counts_as_empty() {
    let summary = against(Reaction::Empty);
    assert_eq!((summary.empty, summary.failed()), (50, 50), "{summary}");
}

#[test]
fn silent_server_counts_as_timeout() {
    let summary = against(Reaction::Silent);
    assert_eq!((summary.timeout, summary.failed()), (50, 50), "{summary}");
}

#[test]
fn full_backlog_counts_as_timeout() {
    netns::enter();
    let full = FullListener::start();
    let summary = Load::to([full.address]).connections(5).timeout(Duration::from_millis(700)).run().summary();
    assert_eq!((summary.timeout, summary.failed()), (5, 5), "{summary}");
}

#[test]
fn lost_syn_counts_as_slow_not_as_failed() {
    netns::enter();
    let full = FullListener::start();
    let running = Load::to([full.address]).connections(1).start();
    running.until_started(1);
    full.serve_all(1);
    let summary = running.wait().summary();
    assert_eq!((summary.ok, summary.slow), (1, 1), "{summary}");
}

/// TCP drops the SYN, and its client sends it again. To a unix socket the kernel answers EAGAIN at once, and a proxy has lost its client: so do
/// nginx and HAProxy treat it.
#[test]
fn full_unix_backlog_is_counted_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full.sock");
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    // There is room for one connection more than the backlog says.
    listener.listen(2).unwrap();
    let summary = Load::to([path.clone()]).connections(5).timeout(Duration::from_millis(300)).run().summary();
    let counted = (summary.timeout, summary.other.get("unix backlog full"), summary.refused, summary.failed());
    assert_eq!(counted, (3, Some(&2), 0, 5), "{summary}");
}

#[test]
fn status_other_than_200_is_not_a_success() {
    let summary = against(Reaction::Unavailable);
    assert_eq!(summary.other.get("HTTP 503"), Some(&50), "{summary}");
}

#[test]
fn unclassified_error_keeps_its_text() {
    netns::enter();
    let summary = load("192.0.2.1:80").summary();
    assert!(summary.other.keys().any(|text| text.contains("ENETUNREACH")), "{summary}");
}

/// 50 connections are due in 0.1 s and each takes 0.5 s: a closed loop would need 25 s.
#[test]
fn late_replies_do_not_delay_the_schedule() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Reaction::Late(Duration::from_millis(500)));
    let outcomes = load(server.address);
    outcomes.assert_lossless();
    let last_due = outcomes.all.iter().map(|outcome| outcome.scheduled).max().unwrap();
    let first_end = outcomes.all.iter().map(|outcome| outcome.scheduled + outcome.latency).min().unwrap();
    assert!(last_due < first_end, "the last connection waited for the first to end");
}

#[test]
fn failures_belong_to_the_window_in_which_they_happen() {
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
    // A few more connections may fail between the end of the window and the start of the new server.
    assert!(failed("between") <= 10, "{outcomes}");
}

#[test]
fn generator_reports_that_it_fell_behind() {
    netns::enter();
    let outcomes = Load::to(["127.0.0.1:1"]).rate(10_000_000).connections(20_000).run();
    assert!(!outcomes.kept_schedule());
    assert!(outcomes.to_string().contains("FELL BEHIND"), "{outcomes}");
}

//! Checks that retired generations are listed as long as connections keep them, and are ended early only if the
//! configuration says so.

use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::idle::IdleConnections;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::{Rig, Setup};
use reloader_tests::servers::{Reaction, Server};
use serde_json::Value;

const IDLE: &str = "127.0.0.1:8081";
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn generation_is_listed_until_its_last_connection_closes() {
    netns::enter();
    let backend = backend();
    let rig = setup(&backend).start();
    let old = rig.serving().unwrap();
    let mut idle = IdleConnections::open(IDLE, 50);
    rig.reload().expect_status(0);
    let status = rig.status();
    let draining = &status.at("/draining")[0];
    assert_eq!((&draining["pid"], &draining["connections"]), (&old.pid.into(), &50.into()), "{draining}");
    until(LIMIT, "its age to grow", || rig.status().at("/draining/0/age-s").as_u64() > Some(0));

    assert_eq!(idle.count_answered(), 50);
    until(LIMIT, "the old generation to end", || rig.status().at("/draining").as_array().unwrap().is_empty());
    assert!(!old.is_alive());
}

#[test]
fn hard_stop_after_cuts_and_counts_connections() {
    netns::enter();
    let backend = backend();
    let rig = setup(&backend).tables("[reload]\nhard-stop-after = \"2s\"").start();
    let mut idle = IdleConnections::open(IDLE, 30);
    rig.reload().expect_status(0);
    assert_eq!(idle.alive(), 30);
    until(LIMIT, "a receipt of the end", || ends(&rig).len() == 1);
    assert_eq!(ends(&rig)[0]["lost"]["cut"], 30);
    until(LIMIT, "the connections to be cut", || idle.alive() == 0);
    assert_eq!(*rig.status().at("/draining"), serde_json::json!([]));
}

#[test]
fn reload_waits_at_max_draining() {
    netns::enter();
    let backend = backend();
    let rig = setup(&backend).tables("[reload]\nmax-draining = 1").start();
    let mut idle = IdleConnections::open(IDLE, 5);
    let first = rig.reload().expect_status(0);
    rig.run(&["reload", "--json", "--timeout", "1s"]).expect_status(75);
    assert_eq!(rig.history().at("/0/id"), first.at("/id"));
    // A user who asked by signal sees it there.
    assert!(rig.warnings().contains("a reload is wanted, and not begun"));
    assert!(rig.log().contains("haproxy: waiting for a draining generation to end"), "{}", rig.log());
    // The reload is still pending, although no client waits for it any more.
    assert_eq!(idle.count_answered(), 5);
    until(LIMIT, "the second reload", || rig.history().at("/0/id") != first.at("/id"));
    assert_eq!(rig.history().at("/0/old"), first.at("/new"));
    assert!(!rig.warnings().contains("not begun"));
    assert!(ends(&rig).is_empty());
}

#[test]
fn end_oldest_ends_the_oldest_generation_at_max_draining() {
    netns::enter();
    let backend = backend();
    let rig = setup(&backend).tables("[reload]\nmax-draining = 1\nat-max-draining = \"end-oldest\"").start();
    let mut oldest = IdleConnections::open(IDLE, 7);
    let first = rig.reload().expect_status(0);
    let mut newer = IdleConnections::open(IDLE, 3);
    rig.reload().expect_status(0);
    let ends = ends(&rig);
    assert_eq!((ends.len(), &ends[0]["lost"]["cut"], &ends[0]["old"]), (1, &7.into(), first.at("/old")));
    until(LIMIT, "the oldest connections to be cut", || oldest.alive() == 0);
    assert_eq!((newer.alive(), newer.count_answered()), (3, 3));
}

fn backend() -> Server {
    Server::start("127.0.0.1:0", Reaction::Reply)
}

fn setup(backend: &Server) -> Setup {
    Rig::with(&Config::new().tcp_proxy("idle", &[IDLE], &backend.address.to_string()))
}

fn ends(rig: &Rig) -> Vec<Value> {
    let history = rig.history().json;
    history.as_array().unwrap().iter().filter(|receipt| receipt["kind"] == "end").cloned().collect()
}

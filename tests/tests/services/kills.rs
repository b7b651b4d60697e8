//! Tests kills: of a service whose sockets the daemon keeps, of the daemon, and of both.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader::process::waits_on;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::{listening, until_refused};

use super::scene::{
    GIVEN_SERVER, WEB, given_table, nginx, plain_table, prepare, rungs, service_table, setup, start, write_nginx_conf,
};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
#[ignore = "alone: loads"]
fn ten_kills_refuse_no_connection() {
    netns::enter();
    let rig = start(&given_table(""));
    let sockets = listening(8080);
    let load = Load::to([WEB]).rate(300).start();
    load.until_started(100);
    for _ in 0..10 {
        let serving = rig.serving().unwrap();
        serving.signal(Signal::SIGKILL);
        rig.until_replaced(serving);
        load.until_further(200);
    }
    let outcomes = load.stop();
    println!("{outcomes}");
    let lost = outcomes.summary();
    assert_eq!((lost.refused, lost.timeout), (0, 0));
    assert_eq!(listening(8080), sockets);
}

/// The next daemon finds the service, takes its sockets into custody again, and reloads it with proof.
#[test]
#[ignore = "alone: loads"]
fn next_daemon_adopts_the_service_and_passes_its_sockets() {
    netns::enter();
    let mut rig = start(&given_table(""));
    let sockets = listening(8080);
    let load = Load::to([WEB]).rate(300).start();
    for _ in 0..3 {
        let serving = rig.serving_pid();
        rig.kill9_daemon();
        load.until_further(50);
        rig.start_daemon();
        assert_eq!(rig.serving_pid(), serving);
        assert_eq!(rig.last_receipt()["kind"], "adopt");
        let receipt = rig.reload().expect_status(0);
        assert_eq!(rungs(receipt.at("")), ["passed"]);
        load.until_further(50);
    }
    load.stop().assert_lossless();
    assert_eq!(listening(8080), sockets);
}

/// The daemon was killed before it had recorded the generation.
#[test]
fn unrecorded_generation_is_found_by_its_environment() {
    netns::enter();
    let mut rig = start(&given_table(""));
    let serving = rig.serving_pid();
    rig.kill9_daemon();
    std::fs::remove_file(rig.path("run/services/given/generations.json")).unwrap();
    rig.start_daemon();
    assert_eq!(rig.serving_pid(), serving);
}

/// Custody of a socket that nothing serves ends, so that clients are refused and fail over.
#[test]
fn service_that_fails_to_restart_leaves_its_port_refused() {
    netns::enter();
    let mut rig = prepare(setup(&format!("{}[reload]\nstart-timeout = \"2s\"\n", given_table(""))));
    rig.start_daemon();
    std::fs::write(rig.path("given.py"), "raise SystemExit(7)").unwrap();
    let serving = rig.serving().unwrap();
    serving.signal(Signal::SIGKILL);
    until_refused(WEB);
    until(Duration::from_secs(10), "the warning", || rig.status().stdout.contains("exited with status 7"));
    std::fs::write(rig.path("given.py"), GIVEN_SERVER).unwrap();
    until(Duration::from_secs(40), "the next start attempt", || rig.serving().is_some());
    Load::to([WEB]).connections(20).run().assert_lossless();
    assert!(Process::with_pid(serving.pid).is_none());
}

/// The daemon keeps no sockets of the service: clients are refused until it listens again, and the receipt says so.
#[test]
fn killed_service_that_binds_its_own_socket_is_restarted_unproven() {
    netns::enter();
    let rig = start(&plain_table());
    let serving = rig.serving().unwrap();
    serving.signal(Signal::SIGKILL);
    rig.until_replaced(serving);
    let receipt = rig.last_receipt();
    assert_eq!(
        (receipt["kind"].as_str(), receipt["result"].as_str()),
        (Some("restart"), Some("unproven")),
        "{receipt}"
    );
    assert!(receipt["reason"].as_str().unwrap().contains("the port had no listener"), "{receipt}");
    Load::to([WEB]).connections(20).run().assert_lossless();
}

/// A server that forks a process for each connection. The child inherits the listener and answers once the file exists. With `prefork`
/// one worker answers all connections, and the first process only waits.
const FORKING: &str = r#"
import os, signal, socket, sys, time
s = socket.socket(fileno=3)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def answer(client):
    client.recv(1000)
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
    client.close()
if sys.argv[2] == "prefork":
    if os.fork():
        while True:
            time.sleep(60)
    while True:
        answer(s.accept()[0])
while True:
    client = s.accept()[0]
    if os.fork() == 0:
        answer(client)
        os._exit(0)
    client.close()
"#;

fn prepare_forking(mode: &str) -> Rig {
    let command = format!("\"/usr/bin/python3\", \"DIR/forking.py\", \"DIR/go\", \"{mode}\"");
    let rig = prepare(setup(&service_table("forking", &command, "listen-fds", WEB, "")));
    std::fs::write(rig.path("forking.py"), FORKING).unwrap();
    rig
}

/// A client that has sent its request and waits for the reply.
fn start_request() -> TcpStream {
    let mut client = TcpStream::connect(WEB).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    client
}

/// Whether the client receives its whole reply.
fn is_answered(mut client: TcpStream) -> bool {
    let mut text = String::new();
    client.read_to_string(&mut text).is_ok() && text.ends_with("ok\n")
}

/// The first process ends as soon as it is told to. The child that answers a client has the listener but does not wait on it.
#[test]
fn busy_child_outlives_its_master() {
    netns::enter();
    let mut rig = prepare_forking("fork");
    rig.start_daemon();
    let (old, client) = (rig.serving().unwrap(), start_request());
    until(LIMIT, "a child for the client", || !old.children().is_empty());
    let answering = old.children()[0];
    rig.reload().expect_status(0);
    until(LIMIT, "the first process to be gone", || rig.log().contains("has drained and ended"));
    until(LIMIT, "the child to be followed", || rig.status().at("/draining/0/pid") == answering.pid);
    std::fs::write(rig.path("go"), "").unwrap();
    assert!(is_answered(client), "the child was ended while it answered");
    until(LIMIT, "the child to end", || rig.status().at("/draining").as_array().is_some_and(Vec::is_empty));
}

/// A worker that answers while its master dies is told to end once it waits for the next connection.
#[test]
fn busy_worker_of_a_dead_master_is_ended_once_idle() {
    netns::enter();
    let mut rig = prepare_forking("prefork");
    rig.start_daemon();
    let (master, client) = (rig.serving().unwrap(), start_request());
    let worker = master.children()[0];
    let socket = listening(8080).into_iter().next().unwrap();
    until(LIMIT, "the worker to be busy", || !waits_on(&[worker.pid as u32], socket));
    master.signal(Signal::SIGKILL);
    until(LIMIT, "another generation to serve", || rig.serving().is_some_and(|now| now != master));
    assert!(worker.is_alive(), "the worker was ended while it answered");
    std::fs::write(rig.path("go"), "").unwrap();
    assert!(is_answered(client));
    worker.until_gone(LIMIT);
    Load::to([WEB]).connections(50).run().assert_lossless();
}

/// The next daemon passes the sockets on, and tells the workers to end, because no other process would.
#[test]
#[ignore = "alone: loads"]
fn killing_daemon_and_master_at_once_refuses_no_connection() {
    netns::enter();
    let mut rig = prepare_forking("prefork");
    std::fs::write(rig.path("go"), "").unwrap();
    rig.start_daemon();
    let (master, sockets) = (rig.serving().unwrap(), listening(8080));
    let load = Load::to([WEB]).rate(100).start();
    load.until_started(20);
    let worker = master.children()[0];
    rig.kill9_daemon();
    master.signal(Signal::SIGKILL);
    load.until_further(20);
    rig.start_daemon();
    worker.until_gone(LIMIT);
    assert!(rig.serving().is_some_and(|now| now != master) && listening(8080) == sockets);
    load.until_further(20);
    let lost = load.stop().summary();
    // The worker dies of SIGTERM, with at most one accepted connection.
    assert!(lost.refused == 0 && lost.timeout == 0 && lost.failed() <= 1, "{lost}");
}

/// Workers that outlive their master are told to end: otherwise they would serve an old configuration for ever, and keep the port.
#[test]
#[ignore = "alone: loads"]
fn workers_of_a_killed_master_are_ended() {
    netns::enter();
    for (sockets, more) in [("listen-fds", "environment = { NGINX = \"3;\" }"), ("reuseport", ""), ("replace", "")] {
        let lines = format!("stop = \"SIGQUIT\"\n{more}");
        let mut rig = prepare(setup(&service_table("nginx", &nginx(), sockets, WEB, &lines)));
        write_nginx_conf(&rig, &format!("{WEB}{}", if sockets == "reuseport" { " reuseport" } else { "" }));
        rig.start_daemon();
        let master = rig.serving().unwrap();
        let workers = master.children();
        assert!(!workers.is_empty());
        master.signal(Signal::SIGKILL);
        workers.iter().for_each(|worker| worker.until_gone(Duration::from_secs(20)));
        until(Duration::from_secs(20), "another generation to serve", || rig.serving().is_some());
        assert_eq!(rig.reload().expect_status(0).at("/result"), "proven", "{sockets}");
        Load::to([WEB]).connections(50).run().assert_lossless();
    }
}

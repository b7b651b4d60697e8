//! A service whose sockets the daemon has, killed; and a daemon, killed.

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

use super::scene::{NGINX, WEB, given, nginx_conf, prepared, rungs, started, table, with};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
#[ignore = "alone: loads"]
fn ten_kills_refuse_nobody() {
    netns::enter();
    let rig = started(&given(""));
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

/// The next daemon finds it, has its sockets again, and reloads it with proof.
#[test]
#[ignore = "alone: loads"]
fn the_daemon_killed() {
    netns::enter();
    let mut rig = started(&given(""));
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

/// Its daemon was killed before it had been recorded.
#[test]
fn one_that_was_never_recorded_is_found_by_its_environment() {
    netns::enter();
    let mut rig = started(&given(""));
    let serving = rig.serving_pid();
    rig.kill9_daemon();
    std::fs::remove_file(rig.path("run/services/given/generations.json")).unwrap();
    rig.start_daemon();
    assert_eq!(rig.serving_pid(), serving);
}

/// A socket that nobody serves is no port: clients are to go elsewhere.
#[test]
fn one_that_does_not_start_again_leaves_a_refused_port() {
    netns::enter();
    let mut rig = prepared(with(&format!("{}[reload]\nstart-timeout = \"2s\"\n", given(""))));
    rig.start_daemon();
    std::fs::write(rig.path("given.py"), "raise SystemExit(7)").unwrap();
    let serving = rig.serving().unwrap();
    serving.signal(Signal::SIGKILL);
    until_refused(WEB);
    until(std::time::Duration::from_secs(10), "the warning", || rig.status().stdout.contains("exited with status 7"));
    std::fs::write(rig.path("given.py"), super::scene::GIVEN).unwrap();
    until(std::time::Duration::from_secs(40), "it to be tried again", || rig.serving().is_some());
    Load::to([WEB]).connections(20).run().assert_lossless();
    assert!(Process::with_pid(serving.pid).is_none());
}

/// The daemon has no sockets of it: clients are refused until it is there again, and the receipt says so.
#[test]
fn one_that_binds_by_itself() {
    netns::enter();
    let rig = started(&super::scene::plain());
    let serving = rig.serving().unwrap();
    serving.signal(Signal::SIGKILL);
    rig.until_replaced(serving);
    let receipt = rig.last_receipt();
    assert_eq!(
        (receipt["kind"].as_str(), receipt["result"].as_str()),
        (Some("restart"), Some("unproven")),
        "{receipt}"
    );
    assert!(receipt["reason"].as_str().unwrap().contains("nobody listened on it"), "{receipt}");
    Load::to([WEB]).connections(20).run().assert_lossless();
}

/// One process for each connection, which has the listener too: it answers when the file is there. `prefork` has one worker that answers
/// all, and a first process that only waits.
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

fn forking(how: &str) -> Rig {
    let start = format!("\"/usr/bin/python3\", \"DIR/forking.py\", \"DIR/go\", \"{how}\"");
    let rig = prepared(with(&table("forking", &start, "listen-fds", WEB, "")));
    std::fs::write(rig.path("forking.py"), FORKING).unwrap();
    rig
}

/// A client that has asked, and waits for the answer.
fn asking() -> TcpStream {
    let mut client = TcpStream::connect(WEB).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    client
}

fn answered(mut client: TcpStream) -> bool {
    let mut text = String::new();
    client.read_to_string(&mut text).is_ok() && text.ends_with("ok\n")
}

/// Its first process ends as soon as it is told; who answers a client has the listener, and does not wait on it.
#[test]
fn a_process_that_answers_outlives_its_master() {
    netns::enter();
    let mut rig = forking("fork");
    rig.start_daemon();
    let (old, client) = (rig.serving().unwrap(), asking());
    until(LIMIT, "a process for it", || !old.children().is_empty());
    let answering = old.children()[0];
    rig.reload().expect_status(0);
    until(LIMIT, "the first process to be gone", || rig.log().contains("has drained and ended"));
    until(LIMIT, "its child to be followed", || rig.status().at("/draining/0/pid") == answering.pid);
    std::fs::write(rig.path("go"), "").unwrap();
    assert!(answered(client), "it was ended while it answered");
    until(LIMIT, "the end of it", || rig.status().at("/draining").as_array().is_some_and(Vec::is_empty));
}

/// A worker that answers while its master dies is told when it waits for the next one.
#[test]
fn a_busy_worker_is_told_when_it_waits_again() {
    netns::enter();
    let mut rig = forking("prefork");
    rig.start_daemon();
    let (master, client) = (rig.serving().unwrap(), asking());
    let worker = master.children()[0];
    let socket = listening(8080).into_iter().next().unwrap();
    until(LIMIT, "it to be busy", || !waits_on(&[worker.pid as u32], socket));
    master.signal(Signal::SIGKILL);
    until(LIMIT, "another to serve", || rig.serving().is_some_and(|now| now != master));
    assert!(worker.is_alive(), "it was ended while it answered");
    std::fs::write(rig.path("go"), "").unwrap();
    assert!(answered(client));
    worker.until_gone(LIMIT);
    Load::to([WEB]).connections(50).run().assert_lossless();
}

/// The next daemon gives its sockets on, and tells the workers, which nobody else would.
#[test]
#[ignore = "alone: loads"]
fn daemon_and_master_killed_at_once() {
    netns::enter();
    let mut rig = forking("prefork");
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
    // Its worker dies of SIGTERM with what it had accepted.
    assert!(lost.refused == 0 && lost.timeout == 0 && lost.failed() <= 1, "{lost}");
}

/// Workers that outlive their master are told to end: they would serve an old configuration for ever, and keep the port.
#[test]
#[ignore = "alone: loads"]
fn a_master_killed_takes_its_workers_along() {
    netns::enter();
    for (sockets, more) in [("listen-fds", "environment = { NGINX = \"3;\" }"), ("reuseport", ""), ("replace", "")] {
        let lines = format!("stop = \"SIGQUIT\"\n{more}");
        let mut rig = prepared(with(&table("nginx", NGINX, sockets, WEB, &lines)));
        nginx_conf(&rig, &format!("{WEB}{}", if sockets == "reuseport" { " reuseport" } else { "" }));
        rig.start_daemon();
        let master = rig.serving().unwrap();
        let workers = master.children();
        assert!(!workers.is_empty());
        master.signal(Signal::SIGKILL);
        workers.iter().for_each(|worker| worker.until_gone(std::time::Duration::from_secs(20)));
        until(std::time::Duration::from_secs(20), "another to serve", || rig.serving().is_some());
        assert_eq!(rig.reload().expect_status(0).at("/result"), "proven", "{sockets}");
        Load::to([WEB]).connections(50).run().assert_lossless();
    }
}

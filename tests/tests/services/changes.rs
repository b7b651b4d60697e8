//! A configuration that changes under a service that runs: what was started keeps its own way to end, and its sockets.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::until_refused;

use super::scene::{GIVEN, PLAIN, WEB, given, rungs, started, table};

/// Another reloader.toml, which the daemon has read when this returns.
fn change(rig: &Rig, from: &str, to: &str) {
    let path = rig.path("reloader.toml");
    let before = fs::read_to_string(&path).unwrap();
    let changed = before.replace(from, to);
    assert_ne!(before, changed, "{from}");
    fs::write(path, changed).unwrap();
    let heard = || rig.log().matches("was read again").count();
    let earlier = heard();
    rig.signal_daemon(Signal::SIGHUP);
    until(Duration::from_secs(10), "SIGHUP to be heard", || heard() > earlier);
}

/// Where the configuration takes an address away and gives another, the first is refused and the second served.
#[test]
fn an_address_that_comes_and_one_that_goes() {
    netns::enter();
    let rig = started(&given(""));
    change(&rig, WEB, "127.0.0.1:8081");
    let receipt = rig.reload().expect_status(0);
    assert_eq!(rungs(receipt.at("")), ["removed", "added"], "{}", receipt.stdout);
    assert!(TcpStream::connect(WEB).is_err());
    Load::to(["127.0.0.1:8081"]).connections(50).run().assert_lossless();
}

/// The old generation must make room: both cannot have the port.
#[test]
#[ignore = "alone: loads"]
fn an_address_that_becomes_any() {
    netns::enter();
    let rig = started(&given(""));
    let load = Load::to([WEB]).rate(100).start();
    load.until_started(20);
    change(&rig, WEB, "0.0.0.0:8080");
    rig.reload().expect_status(0);
    load.until_further(50);
    load.stop().assert_lossless();
}

const PLAIN_SERVES: &str = "Server((host, int(port)), Handler).serve_forever()";

/// Ends the loop at SIGTERM, then joins the threads that answer.
const PATIENTLY_SERVES: &str = "\
class Patient(Server):
    daemon_threads = False
server = Patient((host, int(port)), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(0.01)
server.server_close()";

#[test]
#[ignore = "alone: loads"]
fn another_way_to_its_sockets_and_back() {
    netns::enter();
    let rig = started(&given(""));
    // Nobody waits for its answers where its socket is passed on: it must do so itself.
    let patient =
        PLAIN.replace("import http", "import signal, threading, http").replace(PLAIN_SERVES, PATIENTLY_SERVES);
    assert!(patient.contains(PATIENTLY_SERVES), "{PLAIN}");
    fs::write(rig.path("plain.py"), patient).unwrap();
    let own = rig.dir().display().to_string();
    let (first, second) = (given(""), super::scene::plain().replace("service.plain", "service.given"));
    let (first, second) = (first.replace("DIR", &own), second.replace("DIR", &own));
    let load = Load::to([WEB]).rate(100).start();
    load.until_started(20);
    // What the other has bound by itself can be passed on like any socket.
    for (from, to, rung) in [(&first, &second, "held-ebpf"), (&second, &first, "passed")] {
        change(&rig, from, to);
        assert_eq!(rungs(rig.reload().expect_status(0).at("")), [rung]);
        load.until_further(50);
    }
    load.stop().assert_lossless();
}

/// The signal of the new configuration would kill the old generation.
#[test]
#[ignore = "alone: loads"]
fn the_old_one_is_asked_in_its_own_way() {
    netns::enter();
    let rig = started(&given(""));
    fs::write(rig.path("given.py"), GIVEN.replace("SIGTERM", "SIGUSR1")).unwrap();
    let load = Load::to([WEB]).rate(300).start();
    load.until_started(50);
    change(&rig, "listen = ", "stop = \"SIGUSR1\"\nlisten = ");
    for _ in 0..5 {
        rig.reload().expect_status(0);
        load.until_further(60);
    }
    load.stop().assert_lossless();
}

/// What serves is not stopped because the configuration has moved on while there was no daemon.
#[test]
fn another_address_while_there_is_no_daemon() {
    netns::enter();
    let mut rig = started(&given(""));
    let serving = rig.serving_pid();
    rig.terminate_daemon();
    let path = rig.path("reloader.toml");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace(WEB, "127.0.0.1:8081")).unwrap();
    rig.start_daemon();
    assert_eq!(rig.serving_pid(), serving);
    TcpStream::connect(WEB).unwrap();
    rig.reload().expect_status(0);
    Load::to(["127.0.0.1:8081"]).connections(20).run().assert_lossless();
}

/// The daemon does not keep what it had bound for a generation that came to nothing.
#[test]
fn an_address_of_a_reload_that_failed() {
    netns::enter();
    let rig = started(&given(""));
    change(&rig, "listen = [", "listen = [\"127.0.0.1:8081\", ");
    // It does not end when it is told to.
    fs::write(rig.path("given.py"), "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.pause()")
        .unwrap();
    change(&rig, "[service.given]", "[reload]\nstart-timeout = \"1s\"\n[service.given]");
    rig.reload().expect_status(1);
    until_refused("127.0.0.1:8081");
    Load::to([WEB]).connections(20).run().assert_lossless();
}

/// It says that it is ready, and has dropped one of its sockets.
#[test]
fn one_that_does_not_serve_all_that_was_promised() {
    netns::enter();
    let start = "\"/usr/bin/python3\", \"DIR/given.py\", \"0\"";
    let two =
        table("given", start, "listen-fds", WEB, "ready = \"notify\"").replace("[\"127", "[\"127.0.0.1:8081\", \"127");
    let rig = started(&two);
    let serving = rig.serving_pid();
    let careless =
        GIVEN.replace("    stop = asyncio.Event()", "    sockets.pop(0).close()\n    stop = asyncio.Event()");
    fs::write(rig.path("given.py"), careless).unwrap();
    let answer = rig.reload().expect_status(1);
    assert!(answer.at("/reason").as_str().unwrap().contains("does not listen on 127.0.0.1:8081"), "{}", answer.stdout);
    assert_eq!(rig.serving_pid(), serving);
}

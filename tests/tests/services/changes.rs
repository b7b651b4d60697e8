//! Tests changes of the configuration while a service runs: what was started keeps its own way to end, and its sockets.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::until_refused;

use super::scene::{
    GIVEN_SERVER, PLAIN_SERVER, WEB, given_table, passed_nginx, plain_table, prepare, rungs, service_table, setup,
    start, write_nginx_conf,
};

/// Replaces text in reloader.toml and returns once the daemon has read the file again.
fn change(rig: &Rig, from: &str, to: &str) {
    let path = rig.path("reloader.toml");
    let before = fs::read_to_string(&path).unwrap();
    let changed = before.replace(from, to);
    assert_ne!(before, changed, "{from}");
    fs::write(path, changed).unwrap();
    let read_count = || rig.log().matches("was read again").count();
    let before = read_count();
    rig.signal_daemon(Signal::SIGHUP);
    until(Duration::from_secs(10), "the daemon to read its configuration", || read_count() > before);
}

#[test]
fn replaced_address_is_served_and_the_old_one_refused() {
    netns::enter();
    let rig = start(&given_table(""));
    change(&rig, WEB, "127.0.0.1:8081");
    let receipt = rig.reload().expect_status(0);
    assert_eq!(rungs(receipt.at("")), ["removed", "added"], "{}", receipt.stdout);
    assert!(TcpStream::connect(WEB).is_err());
    Load::to(["127.0.0.1:8081"]).connections(50).run().assert_lossless();
}

/// The old generation must close its socket first, because both cannot have the port.
#[test]
#[ignore = "alone: loads"]
fn address_widened_to_any_loses_nothing() {
    netns::enter();
    let rig = start(&given_table(""));
    let load = Load::to([WEB]).rate(100).start();
    load.until_started(20);
    change(&rig, WEB, "0.0.0.0:8080");
    rig.reload().expect_status(0);
    load.until_further(50);
    load.stop().assert_lossless();
}

const PLAIN_SERVES: &str = "Server((host, int(port)), Handler).serve_forever()";

/// Ends the loop at SIGTERM, then waits for the threads that answer.
const PATIENTLY_SERVES: &str = "\
class Patient(Server):
    daemon_threads = False
server = Patient((host, int(port)), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(0.01)
server.server_close()";

#[test]
#[ignore = "alone: loads"]
fn change_between_passed_and_self_bound_sockets_loses_nothing() {
    netns::enter();
    let rig = start(&given_table(""));
    // Where its socket is passed on, the daemon does not wait for the replies of the server: the server must do so itself.
    let patient =
        PLAIN_SERVER.replace("import http", "import signal, threading, http").replace(PLAIN_SERVES, PATIENTLY_SERVES);
    assert!(patient.contains(PATIENTLY_SERVES), "{PLAIN_SERVER}");
    fs::write(rig.path("plain.py"), patient).unwrap();
    let own = rig.dir().display().to_string();
    let (first, second) = (given_table(""), plain_table().replace("service.plain", "service.given"));
    let (first, second) = (first.replace("DIR", &own), second.replace("DIR", &own));
    let load = Load::to([WEB]).rate(100).start();
    load.until_started(20);
    // A socket that the plain server has bound can be passed on like any other.
    for (from, to, rung) in [(&first, &second, "held-ebpf"), (&second, &first, "passed")] {
        change(&rig, from, to);
        assert_eq!(rungs(rig.reload().expect_status(0).at("")), [rung]);
        load.until_further(50);
    }
    load.stop().assert_lossless();
}

/// The stop signal of the new configuration would kill the old generation.
#[test]
#[ignore = "alone: loads"]
fn old_generation_is_stopped_by_its_own_signal() {
    netns::enter();
    let rig = start(&given_table(""));
    fs::write(rig.path("given.py"), GIVEN_SERVER.replace("SIGTERM", "SIGUSR1")).unwrap();
    let load = Load::to([WEB]).rate(300).start();
    load.until_started(50);
    change(&rig, "listen = ", "stop = \"SIGUSR1\"\nlisten = ");
    for _ in 0..5 {
        rig.reload().expect_status(0);
        load.until_further(60);
    }
    load.stop().assert_lossless();
}

/// A change of the configuration while no daemon runs does not stop the serving generation.
#[test]
fn address_changed_without_a_daemon_is_served_after_the_next_reload() {
    netns::enter();
    let mut rig = start(&given_table(""));
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

/// The daemon closes the socket that it bound for a generation which failed.
#[test]
fn new_address_of_a_failed_reload_is_refused() {
    netns::enter();
    let rig = start(&given_table(""));
    change(&rig, "listen = [", "listen = [\"127.0.0.1:8081\", ");
    // The new generation ignores the request to end.
    fs::write(rig.path("given.py"), "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.pause()")
        .unwrap();
    change(&rig, "[service.given]", "[reload]\nstart-timeout = \"1s\"\n[service.given]");
    rig.reload().expect_status(1);
    until_refused("127.0.0.1:8081");
    Load::to([WEB]).connections(20).run().assert_lossless();
}

/// The new generation says that it is ready, but has closed one of its sockets.
#[test]
fn generation_that_drops_a_listener_is_refused() {
    netns::enter();
    let command = "\"/usr/bin/python3\", \"DIR/given.py\", \"0\"";
    let two = service_table("given", command, "listen-fds", WEB, "ready = \"notify\"")
        .replace("[\"127", "[\"127.0.0.1:8081\", \"127");
    let rig = start(&two);
    let serving = rig.serving_pid();
    let careless =
        GIVEN_SERVER.replace("    stop = asyncio.Event()", "    sockets.pop(0).close()\n    stop = asyncio.Event()");
    fs::write(rig.path("given.py"), careless).unwrap();
    let answer = rig.reload().expect_status(1);
    assert!(answer.at("/reason").as_str().unwrap().contains("does not listen on 127.0.0.1:8081"), "{}", answer.stdout);
    assert_eq!(rig.serving_pid(), serving);
}

/// nginx is told to listen on one more port, which is not in reloader.toml. The reload that adds it works, the next one cannot: the first says so.
#[test]
fn listener_that_would_make_the_next_reload_fail_is_named_by_the_first() {
    netns::enter();
    let mut rig = prepare(setup(&passed_nginx(WEB)));
    write_nginx_conf(&rig, WEB);
    rig.start_daemon();
    rig.reload().expect_status(0);
    write_nginx_conf(&rig, &format!("{WEB}; listen 127.0.0.1:8081"));
    let first = rig.reload().expect_status(3);
    let reason = first.at("/reason").as_str().unwrap().to_owned();
    assert!(reason.contains("127.0.0.1:8081") && reason.contains("`listen`"), "{reason}");
    assert_eq!(first.at("/reason-code"), "next-reload-fails");
    assert!(rig.warnings().contains("the next reload will fail"), "{}", rig.warnings());
    rig.reload().expect_status(1);
    assert!(rig.warnings().contains("the next reload will fail"), "{}", rig.warnings());
    write_nginx_conf(&rig, WEB);
    rig.reload().expect_status(0);
    assert!(!rig.warnings().contains("next reload"), "{}", rig.warnings());
}

//! Checks what is said of an old generation that goes on accepting connections after it was told to drain.

use std::net::TcpStream;
use std::process::{Command, Stdio};

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::receipt::listener;
use reloader_tests::rig::Rig;
use reloader_tests::servers::{Reaction, Server};
use reloader_tests::sockets::duplicate_of_listener;

const WEB: &str = "127.0.0.1:8080";

fn answering(text: &str) -> Config {
    Config::new().section(&format!(
        "frontend web\n    bind {WEB}\n    http-request return status 200 content-type text/plain string {text}\n"
    ))
}

fn answer() -> String {
    let mut stream = TcpStream::connect(WEB).unwrap();
    exchange(&mut stream)
}

fn exchange(stream: &mut TcpStream) -> String {
    use std::io::{Read, Write};
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.rsplit("\r\n\r\n").next().unwrap().to_owned()
}

/// With `grace` the old generation answers for a while, with the old configuration. A proven reload is over only after that.
#[test]
fn grace_of_haproxy_is_waited_for() {
    netns::enter();
    let rig = Rig::with(&answering("old").global("grace 3s")).start();
    assert_eq!(answer(), "old");
    rig.configure(&answering("new"));
    let receipt = rig.reload().expect_status(0);
    assert_eq!(receipt.at("/result"), "proven");
    assert!(receipt.at("/notes").to_string().contains("`grace`"), "{}", receipt.stdout);
    for _ in 0..40 {
        assert_eq!(answer(), "new");
    }
}

/// An old generation that does not let go in time gets its share of the new connections: that is not proven.
#[test]
fn old_generation_that_goes_on_accepting_is_not_proven() {
    netns::enter();
    // The daemon reads `grace` from the file that the generation was started from. An environment variable hides it.
    let config = answering("old").global("grace \"${GRACE}\"");
    let rig = Rig::with(&config).environment("GRACE", "20s").tables("[reload]\ndrain-timeout = \"500ms\"").start();
    let receipt = rig.reload().expect_status(3);
    assert_eq!(receipt.at("/reason-code"), "old-still-open", "{}", receipt.stdout);
    assert_eq!(listener(&receipt, WEB)["rung"], "passed");
    Load::to([WEB]).connections(20).run().assert_lossless();
}

/// Lets a listener's handshakes wait for the client's first data for as long. HAProxy asks for one second (`defer-accept`), which a busy
/// machine needs for the reload itself.
fn defer_accept(rig: &Rig, seconds: u32) {
    let socket = duplicate_of_listener(rig.serving().unwrap(), 8080);
    let script = format!(
        "import socket; socket.socket(fileno=0).setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, {seconds})"
    );
    let status = Command::new("python3").args(["-c", &script]).stdin(Stdio::from(socket)).status().unwrap();
    assert!(status.success());
}

/// A daemon whose server waits for as many seconds for the first data of a client, and three clients that send none.
fn with_silent_clients(backend: &Server, reload: &str, seconds: u32) -> (Rig, Vec<TcpStream>) {
    let config = Config::new().section(&format!(
        "frontend web\n    mode tcp\n    bind {WEB} defer-accept\n    default_backend s\nbackend s\n    mode tcp\n    server s {}\n",
        backend.address
    ));
    let rig = Rig::with(&config).tables(&format!("[reload]\n{reload}")).start();
    defer_accept(&rig, seconds);
    (rig, (0..3).map(|_| TcpStream::connect(WEB).unwrap()).collect())
}

/// A client that connects and says nothing keeps its handshake open on such a listener. Inside a hold the daemon does not wait for it.
#[test]
fn deferred_accept_is_named_where_it_prevents_the_proof() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    let (rig, silent) = with_silent_clients(&backend, "strategy = \"hold\"", 60);
    let receipt = rig.reload().expect_status(3);
    let why = listener(&receipt, WEB)["why"].as_str().unwrap().to_owned();
    assert!(why.contains("defer-accept"), "{why}");
    drop(silent);
}

/// The listener's own limit is longer than `drain-timeout`. New connections go to the new generation meanwhile.
#[test]
fn deferred_accept_is_waited_for_while_new_connections_are_steered() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    let (rig, silent) = with_silent_clients(&backend, "strategy = \"steer\"\ndrain-timeout = \"300ms\"", 3);
    let receipt = rig.reload().expect_status(0);
    let listener = listener(&receipt, WEB);
    assert_eq!(listener["rung"], "steered", "{}", receipt.stdout);
    for mut client in silent {
        assert_eq!(exchange(&mut client), "ok\n");
    }
}

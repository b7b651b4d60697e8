//! Tests generations that do not bind as their service says, and old generations that owe answers, under `sockets = "overlap"`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::receipt::{assert_proven, listener};
use reloader_tests::rig::Rig;
use reloader_tests::sockets::{accepted_by, queued};
use reloader_tests::tier;

use super::scene::{PLAIN_SERVER, WEB, prepare, service_table, setup};

const LIMIT: Duration = Duration::from_secs(30);

fn server(script: &str, lines: &str) -> Rig {
    let start = format!("\"/usr/bin/python3\", \"DIR/app.py\", \"{WEB}\"");
    let rig = prepare(setup(&service_table("app", &start, "overlap", WEB, lines)));
    fs::write(rig.path("app.py"), script).unwrap();
    rig
}

/// While the file `late` is there, it says that it is ready before it binds. By then its port is not shared any more.
const LATE: &str = r#"
import os, signal, socket
ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def say_ready():
    ready.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
class LateServer(Server):
    def server_bind(self):
        while os.path.exists("DIR/late"):
            pass
        super().server_bind()
if os.path.exists("DIR/late"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say_ready()
server = LateServer((host, int(port)), Handler)
say_ready()
server.serve_forever()
"#;

#[test]
fn generation_that_binds_after_it_was_ready_is_refused() {
    netns::enter();
    let mut rig = server("", "ready = \"notify\"");
    let (classes, _) = PLAIN_SERVER.split_once("Server((host").unwrap();
    let script = format!("{classes}{}", LATE.replace("DIR", &rig.dir().display().to_string()));
    fs::write(rig.path("app.py"), script).unwrap();
    rig.start_daemon();
    let serving = rig.serving_pid();
    fs::write(rig.path("late"), "").unwrap();
    let receipt = rig.reload().expect_status(1);
    assert_eq!(receipt.at("/reason-code"), "addresses-missing", "{}", receipt.stdout);
    fs::remove_file(rig.path("late")).unwrap();
    until(LIMIT, "its bind to be refused", || rig.log().contains("Address already in use"));
    assert_eq!(rig.serving_pid(), serving);
    Load::to([WEB]).connections(50).run().assert_lossless();
    assert_eq!(listener(&rig.reload().expect_status(0), WEB)["rung"], "steered");
}

/// It listens by MPTCP, which is held and not steered, and dies of its stop signal in the middle of a reply.
#[test]
#[ignore = "alone: loads"]
fn answers_of_an_old_generation_that_is_held_are_waited_for() {
    netns::enter();
    let init = "    def __init__(self, address, handler):\n        import socket\n        super().__init__(address, handler, False)\n        \
                self.socket = socket.socket(proto=socket.IPPROTO_MPTCP)\n        self.server_bind()\n        \
                self.server_activate()\n";
    let class = "class Server(http.server.ThreadingHTTPServer):\n";
    let script = PLAIN_SERVER.replace(class, &format!("{class}{init}"));
    let script = script.replace("        self.send_response", "        time.sleep(0.1)\n        self.send_response");
    let mut rig = server(&script.replace("import http", "import time, http"), "");
    rig.start_daemon();
    let load = Load::to([WEB]).rate(100).start();
    load.until_started(20);
    for _ in 0..tier::rounds(20) {
        let receipt = rig.reload();
        assert_proven(&receipt);
        assert_eq!(listener(&receipt, &format!("mptcp@{WEB}"))["rung"], "held-ebpf", "{}", receipt.stdout);
        load.until_further(50);
    }
    load.stop().assert_lossless();
}

/// The kernel moves the queue over, so it is not waited for.
#[test]
fn queue_of_a_stalled_server_moves_over_and_is_not_waited_for() {
    netns::enter();
    let mut rig = server(PLAIN_SERVER, "[reload]\ndrain-timeout = \"1h\"");
    rig.start_daemon();
    rig.reload().expect_status(0);
    let old = rig.serving().unwrap();
    old.stop();
    let mut clients: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(WEB).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap());
    until(LIMIT, "a queue", || queued(8080) == 5);
    let reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "the stalled server to be told", || old.has_pending(Signal::SIGTERM));
    old.signal(Signal::SIGCONT);
    let receipt = reload.wait();
    assert_proven(&receipt);
    assert_eq!(listener(&receipt, WEB)["migrated"], 5, "{}", receipt.stdout);
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("ok\n"), "{answer}");
    }
}

/// A client waits for an answer that comes later than `drain-timeout`.
#[test]
fn wait_for_an_answer_that_is_given_up_is_noted() {
    netns::enter();
    let late =
        PLAIN_SERVER.replace("        self.send_response", "        time.sleep(1000)\n        self.send_response");
    let mut rig = server(&late.replace("import http", "import time, http"), "[reload]\ndrain-timeout = \"1s\"");
    rig.start_daemon();
    let mut client = TcpStream::connect(WEB).unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    until(LIMIT, "the connection to be accepted", || accepted_by(rig.serving().unwrap(), 8080) == 1);
    let receipt = rig.reload().expect_status(0);
    let notes = receipt.at("/notes").to_string();
    assert!(notes.contains("owed an answer on 1 connections") && notes.contains("drain-timeout"), "{notes}");
}

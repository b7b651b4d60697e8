//! What does not start leaves what serves alone, and is told in a sentence.

use std::fs;
use std::time::Duration;

use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::Process;

use super::scene::{PLAIN, WEB, given, plain, prepared, rungs, started, table, with};

/// Its threads sit in accept(2) when its signal handler closes the listener: the kernel listens on.
const THREADED: &str = r#"
import os, signal, socket, sys, threading
host, port = sys.argv[1].split(":")
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((host, int(port)))
listener.listen(512)
def serve():
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            if client.recv(4096):
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
signal.signal(signal.SIGTERM, lambda *_: os.close(listener.fileno()))
threads = [threading.Thread(target=serve) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"#;

#[test]
fn one_that_ends_at_once() {
    netns::enter();
    let rig = started(&given(""));
    let serving = rig.serving_pid();
    fs::write(rig.path("given.py"), "import sys; sys.exit('no configuration here')").unwrap();
    let answer = rig.reload().expect_status(1);
    assert!(answer.at("/reason").as_str().unwrap().contains("exited with status 1"), "{}", answer.stdout);
    assert_eq!(answer.at("/server-log/0"), "no configuration here");
    assert_eq!(rig.serving_pid(), serving);
}

/// It is asked before the serving one makes room.
#[test]
fn one_whose_check_fails_is_not_replaced() {
    netns::enter();
    let mut rig = prepared(with(&format!("{}check = [\"/usr/bin/test\", \"-e\", \"DIR/good\"]\n", plain())));
    rig.start_daemon();
    let serving = rig.serving_pid();
    let answer = rig.reload().expect_status(1);
    assert!(answer.at("/reason").as_str().unwrap().contains("refuses the configuration"), "{}", answer.stdout);
    assert_eq!(rig.serving_pid(), serving);
    rig.run(&["check"]).expect_status(78);
    rig.run(&["reload", "--dry-run"]).expect_status(1);
    fs::write(rig.path("good"), "").unwrap();
    rig.run(&["check"]).expect_status(0);
    rig.reload().expect_status(0);
}

#[test]
fn an_address_that_somebody_has_is_named() {
    netns::enter();
    let _somebody = std::net::TcpListener::bind(WEB).unwrap();
    let rig = prepared(with(&given("")));
    let answer = rig.run(&["daemon"]).expect_status(4);
    assert!(answer.stderr.contains(&format!("cannot listen on {WEB}")), "{}", answer.stderr);
}

#[test]
fn a_program_and_a_user_that_are_not_there() {
    netns::enter();
    let missing = prepared(with(&table("missing", "\"/usr/bin/missing\"", "listen-fds", WEB, "")));
    let answer = missing.run(&["daemon"]).expect_status(4);
    assert!(answer.stderr.contains("cannot start /usr/bin/missing"), "{}", answer.stderr);
    missing.run(&["check"]).expect_status(78);
    let nobody = prepared(with(&given("user = \"nosuchuser\"")));
    let answer = nobody.run(&["daemon"]).expect_status(4);
    assert!(answer.stderr.contains("there is no user `nosuchuser`"), "{}", answer.stderr);
    nobody.run(&["check"]).expect_status(78);
}

/// A port below 1024 for somebody who may not bind it.
#[test]
fn another_user_serves_what_root_has_bound() {
    netns::enter();
    let mut rig = prepared(with(&super::scene::given_at("127.0.0.1:80", "user = \"nobody\"")));
    std::os::unix::fs::chown(rig.dir(), Some(65534), None).unwrap();
    rig.start_daemon();
    let status = fs::read_to_string(format!("/proc/{}/status", rig.serving_pid())).unwrap();
    assert!(status.contains("Uid:\t65534\t65534\t65534"), "{status}");
    rig.reload().expect_status(0);
}

/// Nothing else is started beside one that does not make room.
#[test]
fn one_that_does_not_end_when_it_is_asked() {
    netns::enter();
    let rig = started(&plain().replace("sockets", "stop = [\"/bin/false\"]\nsockets"));
    let serving = rig.serving_pid();
    let answer = rig.reload().expect_status(1);
    assert!(answer.at("/reason").as_str().unwrap().contains("after it was asked to end"), "{}", answer.stdout);
    assert_eq!(rig.serving_pid(), serving);
    Load::to([WEB]).connections(20).run().assert_lossless();
}

#[test]
#[ignore = "alone: loads"]
fn one_that_closes_a_listener_on_which_a_thread_waits() {
    netns::enter();
    let start = format!("\"/usr/bin/python3\", \"DIR/threaded.py\", \"{WEB}\"");
    let mut rig = prepared(with(&table("threaded", &start, "replace", WEB, "")));
    fs::write(rig.path("threaded.py"), THREADED).unwrap();
    rig.start_daemon();
    let load = Load::to([WEB]).rate(100).start();
    load.until_started(20);
    for _ in 0..3 {
        let receipt = rig.reload().expect_status(0);
        assert_eq!(rungs(&receipt.json), ["held-ebpf"], "{}", receipt.stdout);
        load.until_further(100);
    }
    load.stop().assert_lossless();
}

/// Longer than drain-timeout, and SYNs are held for longer still.
#[test]
#[ignore = "alone: loads"]
fn one_that_takes_its_time_to_make_room() {
    netns::enter();
    let rig = started(&format!("{}[hold]\nmax = \"20s\"\n", plain()));
    let serve = "Server((host, int(port)), Handler).serve_forever()";
    let ends_late = "import os, signal, threading\nsignal.signal(signal.SIGTERM, lambda *_: threading.Timer(3, os._exit, [0]).start())\n";
    fs::write(rig.path("plain.py"), PLAIN.replace(serve, &format!("{ends_late}{serve}"))).unwrap();
    rig.reload().expect_status(0);
    let load = Load::to([WEB]).rate(50).start();
    load.until_started(20);
    let receipt = rig.reload().expect_status(0);
    assert!(receipt.at("/phases-us/retire").as_u64() > Some(2_000_000), "it makes room at once: {}", receipt.stdout);
    load.until_further(20);
    load.stop().assert_lossless();
}

/// Its worker serves already when it ends itself: it must not go on to serve beside the old generation, followed by nobody.
#[test]
fn the_worker_of_one_that_ends_before_it_is_ready() {
    netns::enter();
    let start = "\"/usr/bin/python3\", \"DIR/given.py\", \"0\"";
    let rig = started(&table("given", start, "listen-fds", WEB, "ready = \"notify\""));
    let serving = rig.serving_pid();
    let script = "import os, select, socket, sys\nreader, writer = os.pipe()\nif os.fork():\n    os.read(reader, 1)\n    sys.exit(7)\n\
                  open('DIR/worker', 'w').write(str(os.getpid()))\nos.write(writer, b'.')\ns = socket.socket(fileno=3)\n\
                  while True:\n    select.select([s], [], [])\n";
    fs::write(rig.path("given.py"), script.replace("DIR", &rig.dir().display().to_string())).unwrap();
    let answer = rig.reload().expect_status(1);
    assert!(answer.at("/reason").as_str().unwrap().contains("exited with status 7"), "{}", answer.stdout);
    let worker: i32 = fs::read_to_string(rig.path("worker")).unwrap().parse().unwrap();
    until(Duration::from_secs(20), "its worker to be told", || Process::with_pid(worker).is_none());
    assert_eq!(rig.serving_pid(), serving);
    Load::to([WEB]).connections(50).run().assert_lossless();
}

/// What it leaves behind is not followed, so it must not do that.
#[test]
fn one_that_goes_to_the_background() {
    netns::enter();
    let rig = started(&given(""));
    fs::write(rig.path("given.py"), "import os; os._exit(0)").unwrap();
    let answer = rig.reload().expect_status(1);
    assert!(answer.at("/reason").as_str().unwrap().contains("stay in the foreground"), "{}", answer.stdout);
}

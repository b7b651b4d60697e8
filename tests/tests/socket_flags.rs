//! Tests that O_NONBLOCK is restored. The flag belongs to the open file, which a server shares with custody, and a service manager that
//! passes the socket may change it.

use std::fs;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::{duplicate_of_listener, listening};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::services::scene::{self, service_table};

const WEB: &str = "127.0.0.1:8080";
const LIMIT: Duration = Duration::from_secs(20);

fn is_nonblocking(socket: &OwnedFd) -> bool {
    fcntl_getfl(socket).unwrap().contains(OFlags::NONBLOCK)
}

/// Toggles O_NONBLOCK, as systemd does with the sockets of a socket unit whenever it starts the service.
fn toggle_nonblocking(socket: &OwnedFd) {
    fcntl_setfl(socket, fcntl_getfl(socket).unwrap() ^ OFlags::NONBLOCK).unwrap();
}

#[test]
fn o_nonblock_of_haproxy_is_restored_at_each_daemon_start() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).start();
    let socket = duplicate_of_listener(rig.serving().unwrap(), 8080);
    assert!(is_nonblocking(&socket));
    for _ in 0..2 {
        rig.kill9_daemon();
        toggle_nonblocking(&socket);
        rig.start_daemon();
        assert!(is_nonblocking(&socket));
        let notes = rig.last_receipt()["notes"].to_string();
        assert!(notes.contains("O_NONBLOCK was set again on 127.0.0.1:8080"), "{notes}");
        Load::to([WEB]).connections(10).run().assert_lossless();
    }
    // No note where nothing was changed.
    rig.restart_daemon();
    assert_eq!(rig.last_receipt()["notes"], serde_json::json!([]));
}

/// HAProxy's threads already wait in accept(2), because clients connected while the flag was changed.
#[test]
fn haproxy_that_hangs_in_accept_is_woken() {
    netns::enter();
    for threads in [1, 2] {
        let mut rig = Rig::with(&Config::web(WEB).global(&format!("nbthread {threads}"))).start();
        let serving = rig.serving().unwrap();
        let socket = duplicate_of_listener(serving, 8080);
        rig.kill9_daemon();
        toggle_nonblocking(&socket);
        let threads_in_accept = || {
            let tasks = fs::read_dir(format!("/proc/{}/task", serving.pid)).unwrap().flatten();
            let call = |task: fs::DirEntry| fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
            // accept4 on x86-64 and on aarch64.
            tasks.map(call).filter(|call| call.starts_with("288 ") || call.starts_with("242 ")).count()
        };
        let mut clients = Vec::new();
        until(LIMIT, "HAProxy's threads to wait in accept", || {
            // Chance decides which thread accepts a client.
            clients.push(TcpStream::connect(WEB).unwrap());
            threads_in_accept() == threads
        });
        rig.start_daemon();
        until(LIMIT, "all threads to be woken", || threads_in_accept() == 0);
        assert_eq!(rig.serving(), Some(serving));
        Load::to([WEB]).connections(10).run().assert_lossless();
        assert_eq!(rig.reload().expect_status(0).at("/result"), "proven");
        rig.run(&["stop"]).expect_status(0);
    }
}

/// Starts a service that takes its listener on [`WEB`] from the daemon and runs this script.
fn start_service(script: &str, argument: &str) -> Rig {
    let command = format!("\"/usr/bin/python3\", \"DIR/given.py\", \"{argument}\"");
    let table = service_table("given", &command, "listen-fds", WEB, "");
    let mut rig = scene::setup(&table).prepare();
    fs::write(rig.path("given.py"), script).unwrap();
    rig.start_daemon();
    rig
}

/// One server waits in accept(2) and needs a blocking socket, the other polls.
#[test]
fn flag_of_other_servers_is_restored_to_their_own_value() {
    netns::enter();
    let script = "import select, socket, sys\ns = socket.socket(fileno=3)\ns.setblocking(sys.argv[1] == 'waits')\n\
                  while True:\n    sys.argv[1] == 'waits' or select.select([s], [], [])\n    s.accept()[0].close()\n";
    for (mode, nonblocking) in [("waits", false), ("polls", true)] {
        let mut rig = start_service(script, mode);
        let socket = duplicate_of_listener(rig.serving().unwrap(), 8080);
        assert_eq!(is_nonblocking(&socket), nonblocking, "{mode}");
        rig.restart_daemon();
        assert_eq!(is_nonblocking(&socket), nonblocking, "{mode}");
        rig.kill9_daemon();
        if nonblocking {
            toggle_nonblocking(&socket);
        }
        rig.start_daemon();
        assert_eq!(is_nonblocking(&socket), nonblocking, "{mode}");
        rig.run(&["stop"]).expect_status(0);
    }
}

/// A server may set the flag after it is ready.
#[test]
fn flag_set_after_readiness_is_recorded() {
    netns::enter();
    let script = "import select, socket, time\ns = socket.socket(fileno=3)\ns.setblocking(True)\nselect.select([s], [], [])\n\
                  s.accept()[0].close()\ns.setblocking(False)\nwhile True:\n    select.select([s], [], [])\n    s.accept()[0].close()\n";
    let mut rig = start_service(script, "late");
    let socket = duplicate_of_listener(rig.serving().unwrap(), 8080);
    let _client = TcpStream::connect(WEB).unwrap();
    until(LIMIT, "the flag", || is_nonblocking(&socket));
    let recorded = || fs::read_to_string(rig.path("run/services/given/generations.json")).unwrap_or_default();
    let inode = listening(8080).into_iter().next().unwrap().to_string();
    until(LIMIT, "the flag to be recorded", || recorded().contains(&inode));
    rig.kill9_daemon();
    toggle_nonblocking(&socket);
    rig.start_daemon();
    assert!(is_nonblocking(&socket));
}

//! Checks that a retired generation that ends before its connections do is told from one that has drained: a receipt counts what was cut,
//! and `status` has a warning.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::idle::IdleConnections;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::rig::{Rig, Setup};
use reloader_tests::servers::{Reaction, Server};
use serde_json::Value;

use crate::services::scene;

const IDLE: &str = "127.0.0.1:8081";
const SESSIONS: usize = 20;
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn killed_generation_has_a_receipt_and_a_warning() {
    netns::enter();
    let backend = backend();
    let rig = setup(&backend).start();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let (old, mut idle) = reload_with_sessions(&rig);
        old.signal(signal);
        let end = until_ended(&rig, old);
        assert_eq!((&end["lost"]["cut"], &end["old"]["pid"]), (&Value::from(SESSIONS), &old.pid.into()), "{end}");
        assert_eq!((&end["result"], &end["reason-code"]), (&"unproven".into(), &"connections-cut".into()), "{end}");
        let reason = end["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("was killed by signal {}", signal as i32)), "{reason}");
        assert_eq!(idle.alive(), 0);
        assert!(rig.warnings().contains("20 open connections were cut"), "{}", rig.warnings());
        assert!(rig.log().contains(reason), "{}", rig.log());
    }
}

/// The next generation that drains in order shows that it was not a habit.
#[test]
fn orderly_end_has_no_receipt_and_clears_the_warning() {
    netns::enter();
    let backend = backend();
    let rig = setup(&backend).start();
    let (old, _cut) = reload_with_sessions(&rig);
    old.signal(Signal::SIGKILL);
    until_ended(&rig, old);
    let (_, mut idle) = reload_with_sessions(&rig);
    assert_eq!(idle.count_answered(), SESSIONS);
    until(LIMIT, "the warning to be cleared", || !rig.warnings().contains("cut"));
    assert_eq!(ends(&rig).len(), 1);
}

/// HAProxy itself ends its sessions, and exits with status 0.
#[test]
fn hard_stop_of_haproxy_is_counted() {
    netns::enter();
    let backend = backend();
    for global in ["hard-stop-after 3s", "hard-stop-after \"${HARD_STOP}\""] {
        let config = config(&backend).global(global);
        let rig = Rig::with(&config).environment("HARD_STOP", "3s").start();
        let (old, mut idle) = reload_with_sessions(&rig);
        let end = until_ended(&rig, old);
        // Where the time is in the environment, only HAProxy's log tells of the hard stop, and the connections were not counted in time.
        let expected = if global.contains('$') { Value::Null } else { Value::from(SESSIONS) };
        assert_eq!(end["lost"]["cut"], expected, "{end}");
        assert!(end["reason"].as_str().unwrap().contains("hard-stop-after"), "{end}");
        assert_eq!(idle.alive(), 0);
    }
}

/// The next daemon is not the parent of what it finds.
#[test]
fn next_daemon_counts_what_a_killed_generation_had() {
    netns::enter();
    let backend = backend();
    let mut rig = setup(&backend).start();
    let (old, _idle) = reload_with_sessions(&rig);
    rig.kill9_daemon();
    rig.start_daemon();
    until(LIMIT, "it to count", || rig.status().at("/draining/0/connections") == &Value::from(SESSIONS));
    old.signal(Signal::SIGKILL);
    let expected = if keeps_status() { Value::from(SESSIONS) } else { Value::Null };
    assert_eq!(until_ended(&rig, old)["lost"]["cut"], expected);
}

/// The master lives on, or exits for a reason of its own.
#[test]
fn killed_worker_of_a_draining_master_is_counted() {
    netns::enter();
    let backend = backend();
    for mode in ["master-worker", "master-worker no-exit-on-failure"] {
        println!("{mode}");
        let rig = Rig::with(&config(&backend).global(mode)).start();
        let (master, mut idle) = reload_with_sessions(&rig);
        let [worker] = master.children()[..] else { panic!("{:?}", master.children()) };
        worker.signal(Signal::SIGKILL);
        let end = until_ended(&rig, master);
        assert_eq!(end["lost"]["cut"], SESSIONS, "{end}");
        assert_eq!(idle.alive(), 0);
    }
}

/// A server whose `stop` ends it at once: no reload can keep its sessions, and none says "cut 0".
#[test]
fn service_that_dies_of_its_stop_signal_cuts_and_says_so() {
    netns::enter();
    let server = "import socketserver, threading\n\
        class Handler(socketserver.BaseRequestHandler):\n    def handle(self):\n        self.request.recv(1)\n\
        class Server(socketserver.ThreadingTCPServer):\n    allow_reuse_address = True\n    request_queue_size = 512\n\
        def server_bind(self):\n    import socket\n    self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n    \
        super(Server, self).server_bind()\n\
        Server.server_bind = server_bind\n\
        Server(('127.0.0.1', 8081), Handler).serve_forever()\n";
    let table = |sockets: &str| {
        format!(
            "[service.plain]\nstart = [\"/usr/bin/python3\", \"DIR/plain.py\"]\nsockets = \"{sockets}\"\nlisten = [\"{IDLE}\"]\n"
        )
    };
    for sockets in ["reuseport", "replace"] {
        let mut rig = Rig::with(&Config::new()).without_haproxy().tables(&table(sockets)).prepare();
        std::fs::write(rig.path("plain.py"), server).unwrap();
        rig.start_daemon();
        let mut idle = IdleConnections::open(IDLE, SESSIONS);
        let old = rig.serving().unwrap();
        rig.reload();
        until(LIMIT, "the sessions to end", || idle.alive() == 0);
        until(LIMIT, "the warning", || rig.warnings().contains("20 open connections were cut"));
        let receipts = rig.history().json.as_array().unwrap().clone();
        let told: Vec<&Value> = receipts.iter().filter(|receipt| receipt["old"]["pid"] == old.pid).collect();
        let cut: u64 = told.iter().map(|receipt| receipt["lost"]["cut"].as_u64().unwrap()).sum();
        assert_eq!(cut, SESSIONS as u64, "{told:?}");
    }
}

/// nginx exits with status 0 however it ends. The kernel shows that it closed what had lived for a while.
#[test]
fn nginx_that_closes_its_sessions_at_its_end_is_reported() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Silent);
    for (directive, signal) in [("worker_shutdown_timeout 3s;", None), ("", Some(Signal::SIGTERM))] {
        let conf = format!(
            "daemon off; user root; worker_processes 2; pid DIR/nginx.pid; {directive} events {{ worker_connections 1000; }}\n\
             http {{ access_log off; server {{ listen {IDLE}; location / {{ proxy_pass http://{}; }} }} }}\n",
            backend.address
        );
        let mut rig = scene::setup(&scene::passed_nginx(IDLE)).prepare();
        std::fs::write(rig.path("nginx.conf"), conf.replace("DIR", &rig.dir().display().to_string())).unwrap();
        rig.start_daemon();
        let old = rig.serving().unwrap();
        let sessions: Vec<TcpStream> = (0..SESSIONS).map(|_| asking()).collect();
        rig.reload().expect_status(0);
        let age = || rig.status().at("/draining/0/age-s").as_u64();
        until(LIMIT, "the daemon to see that they last", || age() >= Some(2));
        signal.into_iter().for_each(|signal| old.signal(signal));
        let end = until_ended(&rig, old);
        assert_eq!(end["lost"]["cut"], Value::Null, "{end}");
        assert!(end.to_string().contains("lasting connections") || end.to_string().contains("was killed"), "{end}");
        drop(sessions);
    }
}

/// A client that has sent a request, and waits for the reply.
fn asking() -> TcpStream {
    let mut stream = TcpStream::connect(IDLE).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream
}

fn backend() -> Server {
    Server::start("127.0.0.1:0", Reaction::Reply)
}

fn config(backend: &Server) -> Config {
    Config::new().tcp_proxy("idle", &[IDLE], &backend.address.to_string())
}

fn setup(backend: &Server) -> Setup {
    Rig::with(&config(backend))
}

/// Reloads while sessions are open. Returns the old generation once `status` has counted them.
fn reload_with_sessions(rig: &Rig) -> (Process, IdleConnections) {
    let old = rig.serving().unwrap();
    let mut idle = IdleConnections::open(IDLE, SESSIONS);
    let receipt = rig.reload().expect_status(0);
    assert_eq!((receipt.at("/result"), receipt.at("/lost/cut")), (&"proven".into(), &0.into()));
    assert_eq!(idle.alive(), SESSIONS);
    assert_eq!(rig.status().at("/draining/0/connections"), &Value::from(SESSIONS));
    (old, idle)
}

/// Waits until this generation has a receipt of its end.
fn until_ended(rig: &Rig, old: Process) -> Value {
    let mut found = None;
    until(LIMIT, "a receipt of the end", || {
        found = ends(rig).into_iter().find(|end| end["old"]["pid"] == old.pid);
        found.is_some()
    });
    found.unwrap()
}

fn ends(rig: &Rig) -> Vec<Value> {
    let history = rig.history().json;
    history.as_array().unwrap().iter().filter(|receipt| receipt["kind"] == "end").cloned().collect()
}

/// Linux keeps the status of a process that is not our child from 6.15 on.
pub(crate) fn keeps_status() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

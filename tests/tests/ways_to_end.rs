//! Ends generations in every way that is known, and compares what died, as the clients count it, with what the receipts say was cut.
//! Each row of a table is one way.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::idle::IdleConnections;
use reloader_tests::netns;
use reloader_tests::poll::{satisfied_within, until};
use reloader_tests::process::Process;
use reloader_tests::rig::Rig;
use reloader_tests::servers::{Reaction, Server};
use reloader_tests::sockets::open_sockets;
use serde_json::Value;

use crate::ends::keeps_status;
use crate::services::scene;

const IDLE: &str = "127.0.0.1:8081";
const SESSIONS: usize = 20;
const LIMIT: Duration = Duration::from_secs(20);

/// A way in which generations end.
struct Way {
    name: &'static str,
    /// What is in `global` of HAProxy's configuration.
    global: &'static str,
    /// What is in `reloader.toml`.
    tables: &'static str,
    /// Whether the sessions belong to a generation that drains, or to the one that serves.
    drains: bool,
    end: fn(&mut Scene),
    /// How many sessions die.
    dies: usize,
    /// Whether the receipts say how many were cut. Otherwise they say that it is not known.
    is_counted: bool,
    /// Whether the kernel has to keep the status of a process that is not the daemon's child.
    needs_status: bool,
}

/// A plain one.
const WAY: Way = Way {
    name: "",
    global: "",
    tables: "",
    drains: true,
    end: |_| {},
    dies: SESSIONS,
    is_counted: true,
    needs_status: false,
};

struct Scene {
    rig: Rig,
    /// The generation with the sessions.
    old: Process,
    sessions: IdleConnections,
}

impl Scene {
    fn finish_sessions(&mut self) {
        assert_eq!(self.sessions.count_answered(), SESSIONS);
    }

    /// The number of sessions that the server has ended. They end with their process, which takes a moment.
    fn died(&mut self) -> usize {
        satisfied_within(LIMIT, || self.sessions.alive() == 0);
        self.sessions.deaths().len()
    }

    /// Lets it end in this way while there is no daemon.
    fn without_daemon(&mut self, end: impl FnOnce(&mut Scene)) {
        self.rig.kill9_daemon();
        self.end_before_the_next_daemon(end);
    }

    /// Lets it end in this way after `reloader stop`, which leaves it to its clients.
    fn after_stop(&mut self, end: impl FnOnce(&mut Scene)) {
        self.rig.run(&["stop"]).expect_status(0);
        self.rig.until_daemon_ends();
        assert_eq!(self.sessions.alive(), SESSIONS);
        self.end_before_the_next_daemon(end);
    }

    fn end_before_the_next_daemon(&mut self, end: impl FnOnce(&mut Scene)) {
        end(self);
        self.old.until_gone(LIMIT);
        self.rig.start_daemon();
    }

    fn kill(&mut self) {
        self.old.signal(Signal::SIGKILL);
    }

    fn worker(&self) -> Process {
        let [worker] = self.old.children()[..] else { panic!("{:?}", self.old.children()) };
        worker
    }

    /// Waits until a daemon that was started again has counted the sessions.
    fn until_counted(&self) {
        let counted = || self.rig.status().at("/draining/0/connections") == &Value::from(SESSIONS);
        until(LIMIT, "the daemon to count", counted);
    }
}

const WAYS: &[Way] = &[
    Way { name: "its clients finish", end: Scene::finish_sessions, dies: 0, ..WAY },
    Way { name: "hard-stop-after of HAProxy", global: "hard-stop-after 3s", ..WAY },
    Way { name: "hard-stop-after of the daemon", tables: "[reload]\nhard-stop-after = \"2s\"", ..WAY },
    Way {
        name: "hard-stop-after of the daemon, a master and its worker",
        global: "master-worker",
        tables: "[reload]\nhard-stop-after = \"2s\"",
        ..WAY
    },
    Way {
        name: "max-draining",
        tables: "[reload]\nmax-draining = 1\nat-max-draining = \"end-oldest\"",
        end: |scene| drop(scene.rig.reload().expect_status(0)),
        ..WAY
    },
    Way { name: "SIGKILL", end: Scene::kill, ..WAY },
    Way { name: "SIGTERM", end: |scene| scene.old.signal(Signal::SIGTERM), ..WAY },
    Way { name: "SIGINT", end: |scene| scene.old.signal(Signal::SIGINT), ..WAY },
    Way { name: "SIGSEGV", end: |scene| scene.old.signal(Signal::SIGSEGV), ..WAY },
    Way {
        name: "SIGKILL to the worker",
        global: "master-worker",
        end: |scene| scene.worker().signal(Signal::SIGKILL),
        ..WAY
    },
    Way {
        name: "SIGTERM to the worker",
        global: "master-worker",
        end: |scene| scene.worker().signal(Signal::SIGTERM),
        ..WAY
    },
    Way { name: "SIGKILL to the master", global: "master-worker", end: Scene::kill, ..WAY },
    Way {
        name: "SIGTERM to the master",
        global: "master-worker",
        end: |scene| scene.old.signal(Signal::SIGTERM),
        ..WAY
    },
    Way {
        name: "the next daemon sees SIGKILL",
        end: |scene| {
            scene.rig.kill9_daemon();
            scene.rig.start_daemon();
            scene.until_counted();
            scene.old.signal(Signal::SIGKILL);
        },
        needs_status: true,
        ..WAY
    },
    Way {
        name: "SIGKILL while there is no daemon",
        end: |scene| scene.without_daemon(Scene::kill),
        is_counted: false,
        ..WAY
    },
    Way {
        name: "SIGKILL after `reloader stop`",
        drains: false,
        end: |scene| scene.after_stop(Scene::kill),
        is_counted: false,
        ..WAY
    },
    Way {
        name: "`reloader stop`, and its clients finish",
        drains: false,
        end: |scene| scene.after_stop(Scene::finish_sessions),
        dies: 0,
        is_counted: false,
        ..WAY
    },
    Way {
        name: "its clients finish while there is no daemon",
        end: |scene| scene.without_daemon(Scene::finish_sessions),
        dies: 0,
        is_counted: false,
        ..WAY
    },
    Way { name: "a crash while it serves", drains: false, end: Scene::kill, is_counted: false, ..WAY },
    Way {
        name: "a crash of the worker while it serves",
        global: "master-worker",
        drains: false,
        end: |scene| scene.worker().signal(Signal::SIGKILL),
        is_counted: false,
        ..WAY
    },
    Way {
        name: "a crash while it serves and there is no daemon",
        drains: false,
        end: |scene| scene.without_daemon(Scene::kill),
        is_counted: false,
        ..WAY
    },
];

#[test]
fn receipts_of_haproxy_say_what_its_clients_lost() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    let mut wrong = Vec::new();
    for way in WAYS {
        let config = Config::new().tcp_proxy("idle", &[IDLE], &backend.address.to_string());
        let config = if way.global.is_empty() { config } else { config.global(way.global) };
        let rig = Rig::with(&config).tables(way.tables).start();
        let old = rig.serving().unwrap();
        let mut sessions = IdleConnections::open(IDLE, SESSIONS);
        let server = old.children().first().copied().unwrap_or(old);
        // Each of them has a connection to the backend too. What waits in the queue of the listener outlives the server.
        until(LIMIT, "the sessions to be accepted", || open_sockets(server.pid).len() >= 2 * SESSIONS);
        if way.drains {
            rig.reload().expect_status(0);
            assert_eq!(sessions.alive(), SESSIONS, "{}", way.name);
            assert_eq!(rig.status().at("/draining/0/connections"), &Value::from(SESSIONS), "{}", way.name);
        }
        let mut scene = Scene { rig, old, sessions };
        (way.end)(&mut scene);
        wrong.extend(compared(way, &mut scene));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Waits for the end and its receipt. A sentence if the receipt says something else than the clients.
fn compared(way: &Way, scene: &mut Scene) -> Option<String> {
    let old = scene.old;
    old.until_gone(LIMIT);
    let rig = &scene.rig;
    until(LIMIT, "the next generation", || rig.serving().is_some_and(|serving| serving != old));
    let drains =
        |status: Value| status["draining"].as_array().is_some_and(|all| all.iter().any(|one| one["pid"] == old.pid));
    until(LIMIT, "the daemon to notice the end", || !drains(rig.status().json));
    let died = scene.died();
    assert_eq!(died, way.dies, "{}", way.name);
    let rig = &scene.rig;
    let is_counted = way.is_counted && (!way.needs_status || keeps_status());
    let expected = is_counted.then_some(died as u64);
    // A receipt may be written a moment after its end.
    satisfied_within(Duration::from_secs(3), || told(rig) == expected);
    let said = told(rig);
    println!("{:<50} died {died:>2}, receipts: {said:?}", way.name);
    (said != expected).then(|| format!("{}: {died} died, the receipts say {said:?}", way.name))
}

/// The sum of what all receipts say was cut. `None` if one of them says that it is not known.
fn told(rig: &Rig) -> Option<u64> {
    let history = rig.history().json;
    history.as_array().unwrap().iter().map(|receipt| receipt["lost"]["cut"].as_u64()).sum()
}

/// A name, a directive of nginx, what is in `reloader.toml`, what is done once the generation drains, and whether the receipts say how many were cut.
type NginxRow = (&'static str, &'static str, &'static str, fn(&NginxScene), bool);

struct NginxScene {
    rig: Rig,
    /// The master with the sessions.
    old: Process,
    workers: Vec<Process>,
}

/// nginx exits with status 0 however it ends.
const NGINX_ROWS: &[NginxRow] = &[
    ("nginx: worker_shutdown_timeout", "worker_shutdown_timeout 3s;", "", |_| {}, false),
    ("nginx: hard-stop-after of the daemon", "", "[reload]\nhard-stop-after = \"3s\"\n", |_| {}, true),
    ("nginx: SIGTERM to the master", "", "", |scene| scene.old.signal(Signal::SIGTERM), false),
    (
        "nginx: SIGKILL to all",
        "",
        "",
        |scene| {
            scene.old.signal(Signal::SIGKILL);
            scene.workers.iter().for_each(|worker| worker.signal(Signal::SIGKILL));
        },
        false,
    ),
    (
        "nginx: SIGKILL to the workers",
        "",
        "",
        |scene| {
            scene.workers.iter().for_each(|worker| worker.signal(Signal::SIGKILL));
        },
        false,
    ),
    (
        "nginx: SIGTERM to the workers",
        "",
        "",
        |scene| {
            scene.workers.iter().for_each(|worker| worker.signal(Signal::SIGTERM));
        },
        false,
    ),
    (
        "nginx: SIGKILL to the master, then to the workers",
        "",
        "",
        |scene| {
            scene.old.signal(Signal::SIGKILL);
            until(LIMIT, "the daemon to notice", || scene.rig.status().at("/draining") == &serde_json::json!([]));
            scene.workers.iter().for_each(|worker| worker.signal(Signal::SIGKILL));
        },
        false,
    ),
];

#[test]
fn receipts_of_nginx_say_what_its_clients_lost() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Silent);
    let mut wrong = Vec::new();
    for (name, directive, tables, end, is_counted) in NGINX_ROWS {
        let conf = format!(
            "daemon off; user root; worker_processes 2; pid DIR/nginx.pid; {directive} events {{ worker_connections 1000; }}\n\
             http {{ access_log off; server {{ listen {IDLE}; location / {{ proxy_pass http://{}; }} }} }}\n",
            backend.address
        );
        let mut rig = scene::setup(&format!("{tables}{}", scene::passed_nginx(IDLE))).prepare();
        fs::write(rig.path("nginx.conf"), conf.replace("DIR", &rig.dir().display().to_string())).unwrap();
        rig.start_daemon();
        let old = rig.serving().unwrap();
        let workers = old.children();
        let sessions: Vec<TcpStream> = (0..SESSIONS).map(|_| request_in_progress()).collect();
        rig.reload().expect_status(0);
        until(LIMIT, "the daemon to see that they last", || rig.status().at("/draining/0/age-s").as_u64() >= Some(2));
        assert_eq!(alive(&sessions), SESSIONS, "{name}");
        let scene = NginxScene { rig, old, workers };
        end(&scene);
        satisfied_within(LIMIT, || alive(&sessions) == 0);
        let died = SESSIONS - alive(&sessions);
        assert_eq!(died, SESSIONS, "{name}");
        // Where the kernel shows too little, the receipt says so.
        let may_say = |said: Option<u64>| said == Some(died as u64) || (!is_counted && said.is_none());
        satisfied_within(LIMIT, || may_say(told(&scene.rig)));
        let said = told(&scene.rig);
        println!("{name:<50} died {died:>2}, receipts: {said:?}");
        if !may_say(said) {
            wrong.push(format!("{name}: {died} died, the receipts say {said:?}: {}", scene.rig.history().stdout));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A client that has sent a request, and waits for the reply.
fn request_in_progress() -> TcpStream {
    let mut stream = TcpStream::connect(IDLE).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

fn alive(sessions: &[TcpStream]) -> usize {
    let is_alive =
        |mut session: &TcpStream| session.read(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    sessions.iter().filter(|session| is_alive(session)).count()
}

//! Stops containers. Everything in a container ends with PID 1, so PID 1 waits until all connections have ended.

use nix::sys::signal::Signal;
use reloader_tests::container::Container;
use reloader_tests::idle::IdleConnections;
use reloader_tests::poll::until;
use reloader_tests::sockets::{listening, until_refused};
use reloader_tests::wrapper::{Behaviour, Wrapper, hanging_process};

use super::scene::{CONTAINED, IDLE, LIMIT, Scene, WEB, config};

const CONNECTIONS: usize = 20;

#[test]
#[ignore = "alone: loads"]
fn stop_serves_established_connections_to_their_end() {
    // PID 1 cannot leave the server running, so `on-stop = "leave"` has no effect.
    let setup = Container::with(&config()).contained(CONTAINED, &[]).tables("on-stop = \"leave\"");
    let mut scene = Scene::start(setup);
    let load = scene.load();
    let mut idle = IdleConnections::open(IDLE, CONNECTIONS);
    scene.container.reloader(&["reload"]).expect_status(0);
    let mut later = IdleConnections::open(IDLE, CONNECTIONS);
    load.until_further(200);
    load.stop().assert_lossless();

    scene.container.kill(Signal::SIGTERM);
    until_refused(WEB);
    until_refused(IDLE);
    let warning = "the daemon was told to end";
    until(LIMIT, "`status` to say so", || scene.container.status().at("/warnings").to_string().contains(warning));
    let drains = |status: &reloader_tests::rig::Answer| {
        status.at("/serving").is_null() && status.at("/draining").as_array().is_some_and(|all| all.len() == 2)
    };
    until(LIMIT, "`status` to say that two generations drain", || drains(&scene.container.status()));
    let refused = scene.container.reloader(&["reload"]).expect_status(69);
    assert!(refused.stderr.contains("ending"), "{}", refused.stderr);
    // Neither signal shortens the drain.
    scene.container.kill(Signal::SIGINT);
    scene.container.kill(Signal::SIGHUP);
    until(LIMIT, "both signals to be received", || {
        ["SIGINT", "SIGHUP"].iter().all(|signal| scene.container.log().contains(&format!("{signal} was received")))
    });
    assert_eq!((idle.alive(), later.alive()), (CONNECTIONS, CONNECTIONS));
    assert_eq!((idle.count_answered(), later.count_answered()), (CONNECTIONS, CONNECTIONS), "{:?}", idle.deaths());
    assert_eq!(scene.container.until_ended(), 0);
    assert!(scene.container.log().contains("on-stop = \"leave\" is not possible"), "{}", scene.container.log());
}

#[test]
#[ignore = "alone: loads"]
fn hard_stop_after_bounds_the_drain() {
    let mut scene = Scene::start(Container::with(&config()).tables("[reload]\nhard-stop-after = \"3s\""));
    let mut idle = IdleConnections::open(IDLE, CONNECTIONS);
    scene.container.kill(Signal::SIGTERM);
    assert_eq!(scene.container.until_ended(), 0);
    assert_eq!(idle.alive(), 0);
    assert_all_were_cut(&scene);
}

/// The last receipt is about an end that cut all connections.
#[track_caller]
fn assert_all_were_cut(scene: &Scene) {
    let receipts = scene.container.receipts();
    let end = receipts.last().expect("a receipt");
    assert_eq!((&end["kind"], &end["lost"]["cut"]), (&"end".into(), &CONNECTIONS.into()), "{end:#}");
}

/// A server with a process for each client. These processes have no listener and outlive the first process.
const FORKING: &str = r#"
[service.forking]
sockets = "listen-fds"
listen = ["127.0.0.1:8085"]
start = ["/usr/bin/python3", "-c", '''
import os, signal, socket
listener = socket.socket(fileno=3)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    client = listener.accept()[0]
    if os.fork() == 0:
        listener.close()
        client.recv(1000)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
        os._exit(0)
    client.close()
''']
"#;
const FORKED: &str = "127.0.0.1:8085";

/// Connections in the queue of a listener are lost when it closes, so this waits until each client has its process.
fn open_with_a_process_each(scene: &Scene) -> IdleConnections {
    let idle = IdleConnections::open(FORKED, CONNECTIONS);
    until(LIMIT, "a process for each client", || scene.container.processes().len() == 3 + CONNECTIONS);
    idle
}

#[test]
#[ignore = "alone: loads"]
fn stop_waits_for_clients_of_processes_that_outlive_their_server() {
    let mut scene = Scene::start(Container::with(&config()).tables(FORKING));
    let mut idle = open_with_a_process_each(&scene);
    scene.container.kill(Signal::SIGTERM);
    until_refused(FORKED);
    until(LIMIT, "the daemon to wait", || scene.container.log().contains("of which the last is waited for"));
    let left = format!("the daemon ends with the last of {CONNECTIONS} connections");
    until(LIMIT, "`status` to say so", || scene.container.status().stdout.contains(&left));
    assert_eq!(idle.count_answered(), CONNECTIONS, "{:?}", idle.deaths());
    assert_eq!(scene.container.until_ended(), 0);
}

#[test]
#[ignore = "alone: loads"]
fn hard_stop_after_bounds_processes_that_outlive_their_server() {
    let tables = format!("[reload]\nhard-stop-after = \"3s\"\n{FORKING}");
    let mut scene = Scene::start(Container::with(&config()).tables(&tables));
    let mut idle = open_with_a_process_each(&scene);
    scene.container.kill(Signal::SIGTERM);
    assert_eq!(scene.container.until_ended(), 0);
    assert_eq!(idle.alive(), 0);
    assert_all_were_cut(&scene);
}

/// The exit status is 0 because the daemon ends on request, although nothing served by then.
#[test]
#[ignore = "alone: loads"]
fn stop_during_a_start_exits_with_0() {
    let wrapper = Wrapper::new();
    wrapper.set(Behaviour::Hang);
    let mut scene = Scene::try_start(Container::with(&config()).haproxy_at(&wrapper.path()));
    until(LIMIT, "a start that hangs", || hanging_process(&scene.container.path("haproxy.cfg")).is_some());
    scene.container.kill(Signal::SIGTERM);
    assert_eq!(scene.container.until_ended(), 0, "{}", scene.container.log());
    drop(scene);

    // A start that has accepted clients by then ends with them.
    wrapper.set(Behaviour::NoStatsSocket);
    let mut scene = Scene::try_start(Container::with(&config()).haproxy_at(&wrapper.path()));
    until(LIMIT, "HAProxy to listen", || !listening(8081).is_empty());
    let mut idle = IdleConnections::open(IDLE, CONNECTIONS);
    scene.container.kill(Signal::SIGTERM);
    until_refused(IDLE);
    until(LIMIT, "the daemon to wait", || scene.container.log().contains("ends with the last connection"));
    assert_eq!(idle.count_answered(), CONNECTIONS, "{:?}", idle.deaths());
    assert_eq!(scene.container.until_ended(), 0, "{}", scene.container.log());
}

/// HAProxy serves from its first moment on, although the daemon does not learn that it is ready.
#[test]
#[ignore = "alone: loads"]
fn failed_start_serves_its_connections_before_the_exit() {
    let wrapper = Wrapper::new();
    wrapper.set(Behaviour::NoStatsSocket);
    let setup = Container::with(&config())
        .haproxy_at(&wrapper.path())
        .tables("[reload]\nstart-timeout = \"3s\"\nfirst-start-timeout = \"3s\"");
    let mut scene = Scene::try_start(setup);
    until(LIMIT, "HAProxy to listen", || !listening(8081).is_empty());
    let mut idle = IdleConnections::open(IDLE, CONNECTIONS);
    until_refused(IDLE);
    until(LIMIT, "the daemon to wait", || scene.container.log().contains("ends with the last connection"));
    assert_eq!(idle.count_answered(), CONNECTIONS, "{:?}", idle.deaths());
    assert_eq!(scene.container.until_ended(), 4);
}

/// Images and people stop containers by these signals and by the command.
#[test]
#[ignore = "alone: loads"]
fn stop_signals_and_the_stop_command_end_the_container() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1] {
        let mut scene = Scene::start(Container::with(&config()));
        let mut idle = IdleConnections::open(IDLE, CONNECTIONS);
        scene.container.kill(signal);
        until_refused(WEB);
        assert_eq!(idle.count_answered(), CONNECTIONS, "{signal}: {:?}", idle.deaths());
        assert_eq!(scene.container.until_ended(), 0, "{signal}");
    }
    let mut scene = Scene::start(Container::with(&config()));
    scene.container.reloader(&["stop"]).expect_status(0);
    assert_eq!(scene.container.until_ended(), 0);
}

/// Asks the daemon to stop, reads the answer, and takes a second to exit.
const SLOW: &str = r#"
import socket, sys, time
control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[1])
request = b'{"command":"stop"}'
control.sendall(len(request).to_bytes(4, "big") + request)
answer = control.recv(4096)
time.sleep(1)
sys.exit(0 if b"stopped" in answer else answer.decode())
"#;

/// If PID 1 ended first, its end would kill this client.
#[test]
#[ignore = "alone: loads"]
fn container_ends_after_the_client_of_the_stop_command() {
    let mut scene = Scene::start(Container::with(&config()));
    let socket = scene.container.path("run/control.sock").display().to_string();
    scene.container.exec(&["python3", "-c", SLOW, &socket]).expect_status(0);
    assert_eq!(scene.container.until_ended(), 0);
}

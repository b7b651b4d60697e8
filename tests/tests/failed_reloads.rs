//! Tests reloads that must fail: the old generation is untouched, no connection is lost, and the next good reload succeeds.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::idle::IdleConnections;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::{Process, mentioning};
use reloader_tests::rig::{Answer, Pending, Rig, Setup};
use reloader_tests::servers::{self, Server};
use reloader_tests::sockets::{accepted_by, listening, open_sockets};
use reloader_tests::wrapper::{Behaviour, Wrapper};

const WEB: &str = "127.0.0.1:8080";
/// Short, because a generation that hangs uses all of it, but long enough for a good generation on a busy machine.
const SHORT_START_TIMEOUT: &str = "[reload]\nstart-timeout = \"3s\"";

#[test]
fn rejected_configuration_keeps_the_old_generation() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let load = Load::to([WEB]).start();
    load.until_started(100);
    let (serving, inodes) = (rig.serving(), listening(8080));

    rig.configure(&Config::web(WEB).section("frontend broken\n    bind nonsense:nonsense\n    no-such-word"));
    let answer = rig.reload().expect_status(1);
    assert_eq!((answer.at("/result"), answer.at("/new")), (&"failed".into(), &().into()));
    let lines = answer.at("/server-log").to_string();
    assert!(lines.contains("no-such-word") && lines.contains("haproxy.cfg:"), "{lines}");
    let shown = rig.run(&["reload"]).expect_status(1).stderr;
    assert!(shown.contains("no-such-word"), "{shown}");
    assert_eq!((rig.serving(), listening(8080)), (serving, inodes));

    assert_next_reload_is_proven(&rig);
    load.stop().assert_lossless();
}

#[test]
fn unsupported_configuration_is_refused_with_file_and_line() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let serving = rig.serving();
    let refused = |config: Config, words: &[&str]| {
        rig.configure(&config);
        let reason = rig.reload().expect_status(1).at("/reason").to_string();
        let place = format!("{}:", rig.haproxy_cfg().display());
        assert!(reason.contains(&place) && words.iter().all(|word| reason.contains(word)), "{reason}");
    };
    refused(Config::web(WEB).global("nbproc 2"), &["nbproc 2", "nbthread"]);
    refused(Config::web(WEB).section("program p\n    command true"), &["program", "master-worker"]);
    assert_eq!(rig.serving(), serving);
    assert_next_reload_is_proven(&rig);
}

#[test]
fn generation_that_dies_at_start_is_abandoned() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).start();
    let answer = fail_reload_under_load(&rig, || wrapper.set(Behaviour::FailAtOnce), || wrapper.set(Behaviour::Normal));
    assert!(answer.at("/reason").to_string().contains("exited with status 1"), "{}", answer.at("/reason"));
    assert!(answer.at("/server-log").to_string().contains("told to die"), "{}", answer.at("/server-log"));
}

#[test]
fn generation_that_dies_after_ready_is_abandoned() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).start();
    let answer =
        fail_reload_under_load(&rig, || wrapper.set(Behaviour::ReadyThenExit), || wrapper.set(Behaviour::Normal));
    assert!(answer.at("/reason").to_string().contains("exited with status 0"), "{}", answer.at("/reason"));
}

#[test]
fn generation_that_hangs_before_it_has_a_socket_is_abandoned() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).tables(SHORT_START_TIMEOUT).start();
    let answer = fail_reload_under_load(&rig, || wrapper.set(Behaviour::Hang), || wrapper.set(Behaviour::Normal));
    assert!(answer.at("/reason").to_string().contains("start-timeout"), "{}", answer.at("/reason"));
    until_only_serving(&rig);
    // It died of the signal that asked it to drain, and had accepted nothing: nothing was cut.
    until(Duration::from_secs(20), "the log of its end", || {
        rig.log().contains("has drained and ended: it was killed by signal 10")
    });
    assert!(!rig.history().stdout.contains("\"end\""), "{}", rig.history().stdout);
}

/// The new generation accepts connections from the start: each of them must be served, although the reload fails.
#[test]
fn generation_that_is_never_ready_still_serves_its_connections() {
    netns::enter();
    let (wrapper, backend) = (Wrapper::new(), Server::start("127.0.0.1:0", servers::Reaction::Reply));
    let (rig, old, reload) = begin_never_ready_reload(&wrapper, &backend);
    let load = Load::to([WEB]).start();
    let (mut idle, inside) = shared_connections(old, until_shared(&rig, old));

    let answer = reload.wait().expect_status(1);
    assert_eq!(*answer.at("/lost/abandoned"), 0);
    load.until_further(300);
    load.stop().assert_lossless();
    assert_eq!((idle.alive(), idle.count_answered()), (200, 200), "{inside} were inside: {:?}", idle.deaths());
    until_only_serving(&rig);
    Load::to([unix_bind(&wrapper)]).connections(100).run().assert_lossless();
    wrapper.set(Behaviour::Normal);
    assert_next_reload_is_proven(&rig);
}

#[test]
fn connections_inside_a_stopped_generation_are_counted_as_abandoned() {
    netns::enter();
    let (wrapper, backend) = (Wrapper::new(), Server::start("127.0.0.1:0", servers::Reaction::Reply));
    let (rig, old, reload) = begin_never_ready_reload(&wrapper, &backend);
    let new = until_shared(&rig, old);
    let (mut idle, doomed) = shared_connections(old, new);
    new.stop();

    let answer = reload.wait().expect_status(1);
    assert_eq!(*answer.at("/lost/abandoned"), doomed);
    new.until_gone(Duration::from_secs(5));
    assert_eq!((idle.alive(), idle.count_answered()), (200 - doomed, 200 - doomed));
    eprintln!("{doomed} of 200 were inside the generation that had to be killed, and were counted");
    wrapper.set(Behaviour::Normal);
    assert_next_reload_is_proven(&rig);
    Load::to([WEB]).connections(100).run().assert_lossless();
}

/// The new generation renames its own socket over the path before the daemon can see that it took over none.
#[test]
fn generation_that_rebinds_a_unix_path_is_refused() {
    netns::enter();
    let wrapper = Wrapper::new();
    let unix = format!("unix@{}", unix_bind(&wrapper).display());
    let config = Config::new().frontend("web", &[WEB, &unix]);
    let rig = Rig::with(&config).haproxy_at(&wrapper.path()).tables("[reload]\nrequire = \"proven\"").start();
    let serving = rig.serving();
    wrapper.set(Behaviour::IgnorePassedSockets);
    let reason = rig.reload().expect_status(1).at("/reason").to_string();
    assert!(reason.contains("web.sock: the new generation opened another socket"), "{reason}");
    until_only_serving(&rig);
    assert_eq!(rig.serving(), serving);
    Load::to([unix.as_str()]).connections(100).run().assert_lossless();
    wrapper.set(Behaviour::Normal);
    assert_next_reload_is_proven(&rig);
}

#[test]
fn bind_taken_by_another_process_fails_the_reload() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let taken = TcpListener::bind("127.0.0.1:8090").unwrap();
    rig.configure(&Config::new().frontend("web", &[WEB, "127.0.0.1:8090"]));
    let answer = fail_reload_under_load(&rig, || {}, || drop(taken));
    assert!(answer.at("/server-log").to_string().contains("127.0.0.1:8090"), "{}", answer.at("/server-log"));
}

#[test]
fn foreign_haproxy_on_the_same_port_fails_the_reload() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let old = rig.serving().unwrap();
    Config::web(WEB).write(&rig.path("foreign.cfg"));
    let foreign = HaproxyBinary::installed().daemonize(&rig.path("foreign.cfg"), &[]).unwrap();

    let load = Load::to([WEB]).start();
    load.until_started(100);
    let answer = rig.reload().expect_status(1);
    load.until_further(300);
    load.stop().assert_lossless();
    let reason = answer.at("/reason").to_string();
    assert!(reason.contains("foreign") && reason.contains(&format!("process {} ", foreign.process.pid)), "{reason}");
    assert_eq!(rig.serving(), Some(old));
    until_only_serving_beside(&rig, &[foreign.process]);

    drop(foreign);
    assert_next_reload_is_proven(&rig);
}

/// Makes a reload fail under load: no connection is lost, and generation and sockets are the same before and after. `make_fail` makes
/// the next reload fail, `restore` the one after that succeed.
fn fail_reload_under_load(rig: &Rig, make_fail: impl FnOnce(), restore: impl FnOnce()) -> Answer {
    let (serving, inodes) = (rig.serving(), listening(8080));
    let load = Load::to([WEB]).start();
    load.until_started(100);
    make_fail();
    let answer = rig.reload().expect_status(1);
    assert_eq!((answer.at("/result"), answer.at("/lost/abandoned")), (&"failed".into(), &0.into()));
    assert_eq!((rig.serving(), listening(8080)), (serving, inodes));
    load.until_further(300);
    restore();
    assert_next_reload_is_proven(rig);
    load.until_further(300);
    load.stop().assert_lossless();
    answer
}

#[track_caller]
fn assert_next_reload_is_proven(rig: &Rig) {
    let old = rig.serving_pid();
    rig.configure(&Config::web(WEB));
    let receipt = rig.reload().expect_status(0);
    assert_eq!((receipt.at("/result"), receipt.at("/old/pid")), (&"proven".into(), &old.into()));
    let web = receipt.at("/listeners").as_array().unwrap().iter().find(|listener| listener["address"] == WEB).unwrap();
    assert_eq!((&web["rung"], &web["inode-before"]), (&"passed".into(), &web["inode-after"]));
}

/// Begins a reload whose new generation serves but never becomes ready. Gives the rig, the old generation and the reload.
fn begin_never_ready_reload(wrapper: &Wrapper, backend: &Server) -> (Rig, Process, Pending) {
    let rig = setup_with_idle(wrapper, backend).start();
    let old = rig.serving().unwrap();
    wrapper.set(Behaviour::NoStatsSocket);
    let reload = rig.spawn(&["reload", "--json"]);
    (rig, old, reload)
}

/// A service with idle connections. A new generation has six seconds to start: enough for a test to act before it is abandoned.
fn setup_with_idle(wrapper: &Wrapper, backend: &Server) -> Setup {
    let config = Config::web(WEB).tcp_proxy("idle", &["127.0.0.1:8081"], &backend.address.to_string());
    let config = config.frontend("unix", &[&format!("unix@{}", unix_bind(wrapper).display())]);
    Rig::with(&config).haproxy_at(&wrapper.path()).tables("[reload]\nstart-timeout = \"6s\"")
}

fn unix_bind(wrapper: &Wrapper) -> PathBuf {
    wrapper.path().with_file_name("web.sock")
}

/// Opens 200 idle connections while both generations accept, and counts those inside the new one. The new generation has the socket before
/// it waits on it, so the old one may get all of them: then the attempt is repeated.
fn shared_connections(old: Process, new: Process) -> (IdleConnections, usize) {
    let accepted = |by| accepted_by(by, 8081);
    let mut shared = None;
    until(Duration::from_secs(10), "the new generation to be given a connection", || {
        let idle = IdleConnections::open("127.0.0.1:8081", 200);
        until(Duration::from_secs(10), "all connections to be accepted", || accepted(old) + accepted(new) == 200);
        let inside = accepted(new);
        if inside > 0 {
            shared = Some((idle, inside));
        } else {
            drop(idle);
            until(Duration::from_secs(10), "all connections to be closed", || accepted(old) == 0);
        }
        shared.is_some()
    });
    shared.unwrap()
}

/// Waits for a third process, besides `old` and the daemon, that has the listener, and gives it.
fn until_shared(rig: &Rig, old: Process) -> Process {
    let inodes = listening(8081);
    let daemon = rig.daemon_process();
    let mut found = None;
    until(Duration::from_secs(10), "the new generation to share a socket", || {
        let mut processes = mentioning(rig.dir()).into_iter();
        found = processes
            .find(|process| ![old, daemon].contains(process) && !open_sockets(process.pid).is_disjoint(&inodes));
        found.is_some()
    });
    found.unwrap()
}

fn until_only_serving(rig: &Rig) {
    until_only_serving_beside(rig, &[]);
}

/// Waits until the abandoned generation has drained and ended.
fn until_only_serving_beside(rig: &Rig, others: &[Process]) {
    let mut expected = vec![rig.daemon_process(), rig.serving().unwrap()];
    expected.extend(others);
    expected.sort();
    until(Duration::from_secs(10), "the abandoned generation to end", || {
        let mut found = mentioning(rig.dir());
        found.sort();
        found == expected
    });
}

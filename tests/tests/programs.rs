//! `program` sections: a HAProxy master runs other programs beside its workers, and passes signals on to them.

use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::haproxy::{HaproxyBinary, Version};
use reloader_tests::idle::IdleConnections;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::rig::Rig;
use reloader_tests::servers::{Reaction, Server};
use reloader_tests::sockets::refuses;
use reloader_tests::{netns, versions};

const WEB: &str = "127.0.0.1:8080";
const IDLE: &str = "127.0.0.1:8081";
const SESSIONS: usize = 20;
const LIMIT: Duration = Duration::from_secs(20);

/// Both ways of a master to take the end of one of its processes.
const MODES: [&str; 2] = ["master-worker", "master-worker no-exit-on-failure"];

/// Its program ends by any signal, as most programs do by SIGUSR1.
fn config(binary: &HaproxyBinary, mode: &str, backend: &Server) -> Config {
    let config = match binary.version >= (Version { major: 3, minor: 1 }) {
        true => Config::web(WEB).global("expose-deprecated-directives"),
        false => Config::web(WEB),
    };
    config
        .global(mode)
        .tcp_proxy("idle", &[IDLE], &backend.address.to_string())
        .section("program p\n    command /bin/sleep 1000\n")
}

/// Those that run programs.
fn binaries() -> Vec<HaproxyBinary> {
    let [first, last] = [Version { major: 2, minor: 0 }, Version { major: 3, minor: 2 }];
    let runs = |binary: &HaproxyBinary| (first..=last).contains(&binary.version);
    let binaries: Vec<_> = versions::all().into_iter().filter(runs).collect();
    assert!(binaries.len() > 2, "{binaries:?}");
    binaries
}

#[test]
fn a_program_that_ends_by_any_signal_costs_no_session() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    for (binary, mode) in binaries().iter().flat_map(|binary| MODES.map(|mode| (binary, mode))) {
        println!("{binary}, {mode}");
        let rig = Rig::with(&config(binary, mode, &backend)).haproxy(binary).start();
        let mut idle = IdleConnections::open(IDLE, SESSIONS);
        let old = rig.serving().unwrap();
        let of_old = children(old);
        let receipt = rig.reload().expect_status(0);
        assert_eq!((receipt.at("/result"), receipt.at("/lost/cut")), (&"proven".into(), &0.into()));
        assert_eq!(children(rig.serving().unwrap()).len(), of_old.len(), "a worker and a program");
        assert_eq!(idle.count_answered(), SESSIONS, "{:?}", idle.deaths());
        until_drained(&rig, old, &of_old);
    }
}

#[test]
fn the_next_daemon_ends_an_old_master_with_its_programs() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    for mode in MODES {
        println!("{mode}");
        let mut rig = Rig::with(&config(&HaproxyBinary::installed(), mode, &backend)).start();
        let mut idle = IdleConnections::open(IDLE, SESSIONS);
        let old = rig.serving().unwrap();
        let of_old = children(old);
        rig.reload().expect_status(0);
        rig.kill9_daemon();
        rig.start_daemon();
        assert_eq!(idle.count_answered(), SESSIONS, "{:?}", idle.deaths());
        until_drained(&rig, old, &of_old);
    }
}

/// Its own reload leaves an old worker, which drains, beside the new one.
#[test]
fn a_master_that_has_reloaded_itself_keeps_the_sessions_of_both_workers() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    for mode in MODES {
        println!("{mode}");
        let rig = Rig::with(&config(&HaproxyBinary::installed(), mode, &backend)).start();
        let master = rig.serving().unwrap();
        let of_old = children(master);
        let mut first = IdleConnections::open(IDLE, SESSIONS);
        master.signal(Signal::SIGUSR2);
        let is_new = |process: &Process| !of_old.contains(process);
        until(LIMIT, "a new worker and a new program", || master.children().into_iter().filter(is_new).count() == 2);
        until(LIMIT, "HAProxy to answer", || rig.status().at("/serving/listeners/0").is_object() && !refuses(WEB));
        let mut second = IdleConnections::open(IDLE, SESSIONS);
        let all = master.children();
        rig.reload().expect_status(0);
        // As long as a daemon takes to look at what drains, three times over.
        let ticks = || rig.status().at("/draining/0/age-s").as_u64() > Some(3);
        until(LIMIT, "it to drain for a while", ticks);
        assert_eq!(
            (first.count_answered(), second.count_answered()),
            (SESSIONS, SESSIONS),
            "{:?} {:?}",
            first.deaths(),
            second.deaths()
        );
        until_drained(&rig, master, &all);
    }
}

/// Not by their own doing: without exit-on-failure, and after an end in good order, a master waits for its programs.
#[test]
fn a_stop_leaves_no_program() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    for mode in MODES {
        println!("{mode}");
        let mut rig = Rig::with(&config(&HaproxyBinary::installed(), mode, &backend)).start();
        let master = rig.serving().unwrap();
        let of_it = children(master);
        let said = rig.run(&["stop"]).expect_status(0).stderr;
        assert_eq!(said, "");
        rig.until_daemon_ends().expect_status(0);
        assert!(!master.is_alive() && of_it.iter().all(|process| !process.is_alive()));

        // With open connections there is no daemon any more that could end it.
        rig.start_daemon();
        let (master, mut idle) = (rig.serving().unwrap(), IdleConnections::open(IDLE, 1));
        let of_it = children(master);
        let said = rig.run(&["stop"]).expect_status(0).stderr;
        assert!(said.contains(&format!("kill {}", master.pid)), "{said}");
        rig.until_daemon_ends().expect_status(0);
        assert_eq!(idle.count_answered(), 1);
        until(LIMIT, "the worker to end", || master.children().len() == 1);
        master.signal(Signal::SIGTERM);
        until(LIMIT, "all to end", || !master.is_alive() && of_it.iter().all(|process| !process.is_alive()));
    }
}

/// No reload can keep it, and what serves nothing yet has none to lose.
#[test]
fn a_program_that_is_to_outlive_reloads_is_started_and_not_reloaded() {
    netns::enter();
    let lasting = "program p\n    command /bin/sleep 1000\n    no option start-on-reload\n";
    let rig = Rig::with(&Config::web(WEB).global("master-worker").section(lasting)).start();
    let serving = rig.serving();
    assert!(rig.last_receipt()["notes"].to_string().contains("start-on-reload"));
    assert!(rig.run(&["check"]).expect_status(78).stderr.contains("companion"));
    let answer = rig.reload().expect_status(1);
    assert!(answer.at("/reason").as_str().unwrap().contains("haproxy.cfg:"), "{}", answer.stdout);
    assert_eq!(rig.serving(), serving);
}

/// A worker and a program, once the program is one.
fn children(master: Process) -> Vec<Process> {
    let children = || master.children();
    until(LIMIT, "a worker and a program", || children().len() == 2);
    children()
}

fn until_drained(rig: &Rig, old: Process, of_old: &[Process]) {
    until(LIMIT, "the old generation to end", || rig.status().at("/draining").as_array().unwrap().is_empty());
    assert!(!old.is_alive());
    until(LIMIT, "its processes to end", || of_old.iter().all(|process| !process.is_alive()));
}

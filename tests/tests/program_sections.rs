//! Tests `program` sections: a HAProxy master runs other programs beside its workers and forwards signals to them.

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

/// The two ways in which a master handles the end of one of its processes.
const MODES: [&str; 2] = ["master-worker", "master-worker no-exit-on-failure"];

/// A configuration whose program dies of any signal, as most programs die of SIGUSR1.
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

/// The versions of HAProxy that run programs.
fn binaries() -> Vec<HaproxyBinary> {
    let [first, last] = [Version { major: 2, minor: 0 }, Version { major: 3, minor: 2 }];
    let runs = |binary: &HaproxyBinary| (first..=last).contains(&binary.version);
    let binaries: Vec<_> = versions::all().into_iter().filter(runs).collect();
    assert!(binaries.len() > 2, "{binaries:?}");
    binaries
}

#[test]
fn program_that_dies_of_any_signal_costs_no_session() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    for (binary, mode) in binaries().iter().flat_map(|binary| MODES.map(|mode| (binary, mode))) {
        println!("{binary}, {mode}");
        let rig = Rig::with(&config(binary, mode, &backend)).haproxy(binary).start();
        let mut idle = IdleConnections::open(IDLE, SESSIONS);
        let old = rig.serving().unwrap();
        let old_children = children(old);
        let receipt = rig.reload().expect_status(0);
        assert_eq!((receipt.at("/result"), receipt.at("/lost/cut")), (&"proven".into(), &0.into()));
        assert_eq!(children(rig.serving().unwrap()).len(), old_children.len(), "a worker and a program");
        assert_eq!(idle.count_answered(), SESSIONS, "{:?}", idle.deaths());
        until_drained(&rig, old, &old_children);
    }
}

#[test]
fn next_daemon_ends_a_drained_master_with_its_programs() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    for mode in MODES {
        println!("{mode}");
        let mut rig = Rig::with(&config(&HaproxyBinary::installed(), mode, &backend)).start();
        let mut idle = IdleConnections::open(IDLE, SESSIONS);
        let old = rig.serving().unwrap();
        let old_children = children(old);
        rig.reload().expect_status(0);
        rig.kill9_daemon();
        rig.start_daemon();
        assert_eq!(idle.count_answered(), SESSIONS, "{:?}", idle.deaths());
        until_drained(&rig, old, &old_children);
    }
}

/// The master's own reload leaves the old worker, which drains, beside the new one.
#[test]
fn self_reloaded_master_keeps_the_sessions_of_both_workers() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    for mode in MODES {
        println!("{mode}");
        let rig = Rig::with(&config(&HaproxyBinary::installed(), mode, &backend)).start();
        let master = rig.serving().unwrap();
        let old_children = children(master);
        let mut first = IdleConnections::open(IDLE, SESSIONS);
        master.signal(Signal::SIGUSR2);
        let is_new = |process: &Process| !old_children.contains(process);
        until(LIMIT, "a new worker and a new program", || master.children().into_iter().filter(is_new).count() == 2);
        until(LIMIT, "HAProxy to answer", || rig.status().at("/serving/listeners/0").is_object() && !refuses(WEB));
        let mut second = IdleConnections::open(IDLE, SESSIONS);
        let all = master.children();
        rig.reload().expect_status(0);
        // Three times the interval at which the daemon checks draining generations.
        let has_drained_a_while = || rig.status().at("/draining/0/age-s").as_u64() > Some(3);
        until(LIMIT, "the old generation to drain for a while", has_drained_a_while);
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

/// The daemon must end the programs: without exit-on-failure, or after an orderly end of its workers, a master waits for them.
#[test]
fn stop_leaves_no_program_running() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    for mode in MODES {
        println!("{mode}");
        let mut rig = Rig::with(&config(&HaproxyBinary::installed(), mode, &backend)).start();
        let master = rig.serving().unwrap();
        let programs = children(master);
        let stderr = rig.run(&["stop"]).expect_status(0).stderr;
        assert_eq!(stderr, "");
        rig.until_daemon_ends().expect_status(0);
        assert!(!master.is_alive() && programs.iter().all(|process| !process.is_alive()));

        // With open connections the master outlives the daemon, so `stop` tells the user how to end it.
        rig.start_daemon();
        let (master, mut idle) = (rig.serving().unwrap(), IdleConnections::open(IDLE, 1));
        let programs = children(master);
        let stderr = rig.run(&["stop"]).expect_status(0).stderr;
        assert!(stderr.contains(&format!("kill {}", master.pid)), "{stderr}");
        rig.until_daemon_ends().expect_status(0);
        assert_eq!(idle.count_answered(), 1);
        until(LIMIT, "the worker to end", || master.children().len() == 1);
        master.signal(Signal::SIGTERM);
        until(LIMIT, "the master and its program to end", || {
            !master.is_alive() && programs.iter().all(|process| !process.is_alive())
        });
    }
}

/// No reload can keep such a program. The first start has no program to lose.
#[test]
fn configuration_with_a_lasting_program_is_started_but_not_reloaded() {
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

/// The master's worker and program, once both run.
fn children(master: Process) -> Vec<Process> {
    let children = || master.children();
    until(LIMIT, "a worker and a program", || children().len() == 2);
    children()
}

fn until_drained(rig: &Rig, old: Process, old_children: &[Process]) {
    until(LIMIT, "the old generation to end", || rig.status().at("/draining").as_array().unwrap().is_empty());
    assert!(!old.is_alive());
    until(LIMIT, "the processes of the old master to end", || old_children.iter().all(|process| !process.is_alive()));
}

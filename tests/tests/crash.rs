//! Kills HAProxy: its sockets stay in custody, and the next generation serves the connections that wait in them.

use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::load::{Load, Outcomes, Summary};
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::rig::{Answer, Rig};
use reloader_tests::sockets::{listening, open_sockets, until_refused};
use reloader_tests::wrapper::{Behaviour, Wrapper};

const WEB: &str = "127.0.0.1:8080";

#[test]
#[ignore = "alone: loads"]
fn ten_kills_refuse_no_connection() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let inodes = listening(8080);
    let at_rest = sockets_of(rig.serving().unwrap());
    let load = Load::to([WEB]).rate(2000).start();
    load.until_started(1000);
    let mut inside = 0;
    for _ in 0..10 {
        let serving = rig.serving().unwrap();
        // It is stopped first, so that the connections inside can be counted before they are lost.
        serving.stop();
        inside += sockets_of(serving) - at_rest;
        serving.signal(Signal::SIGKILL);
        rig.until_replaced(serving);
        load.until_further(2500);
    }
    let outcomes = load.stop();
    assert_only_what_was_inside_is_lost(&outcomes, inside);
    assert_restarts(&rig.history(), 10);
    assert_eq!(listening(8080), inodes);
}

/// After adoption it is not the daemon's child, so the daemon does not learn how its generation ended.
#[test]
fn adopted_generation_that_is_killed_is_restarted() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).start();
    let inodes = listening(8080);
    rig.kill9_daemon();
    rig.start_daemon();
    let load = Load::to([WEB]).start();
    load.until_started(100);
    let serving = rig.serving().unwrap();
    serving.end();
    rig.until_replaced(serving);
    load.until_further(300);
    let lost = load.stop().summary();
    assert_eq!((lost.refused, lost.timeout, listening(8080)), (0, 0, inodes));
    assert_restarts(&rig.history(), 1);
}

/// The master ends with its worker.
#[test]
#[ignore = "alone: loads"]
fn killed_worker_is_replaced_with_the_same_sockets() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB).global("master-worker")).start();
    let at_rest = sockets_of(rig.serving().unwrap().children()[0]);
    let mut inside = 0;
    let outcomes = killed_under_load(&rig, |worker| {
        worker.stop();
        inside = sockets_of(worker) - at_rest;
        worker.signal(Signal::SIGKILL);
    });
    assert_only_what_was_inside_is_lost(&outcomes, inside);
}

/// This master would run on without any worker.
#[test]
#[ignore = "alone: loads"]
fn killed_worker_is_replaced_although_its_master_stays() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB).global("master-worker no-exit-on-failure")).start();
    let outcomes = killed_under_load(&rig, |worker| worker.signal(Signal::SIGKILL));
    let lost = outcomes.summary();
    assert_eq!((lost.refused, lost.timeout), (0, 0), "{outcomes}");
}

/// The worker notices the master's death and ends with all its connections. Their number cannot be counted before.
#[test]
#[ignore = "alone: loads"]
fn killed_master_is_replaced_with_the_same_sockets() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB).global("master-worker")).start();
    let master = rig.serving().unwrap();
    let outcomes = killed_under_load(&rig, |_| master.signal(Signal::SIGKILL));
    eprintln!("master killed: {outcomes}");
    let lost = outcomes.summary();
    assert_eq!((lost.refused, lost.timeout), (0, 0), "{outcomes}");
}

/// Runs a load while `kill` is applied to the worker of a master. Another generation replaces it with the same sockets.
fn killed_under_load(rig: &Rig, kill: impl FnOnce(Process)) -> Outcomes {
    let (master, inodes) = (rig.serving().unwrap(), listening(8080));
    let worker = master.children()[0];
    let load = Load::to([WEB]).start();
    load.until_started(500);
    kill(worker);
    rig.until_replaced(master);
    worker.until_gone(Duration::from_secs(10));
    load.until_further(1000);
    assert_eq!(listening(8080), inodes);
    assert_restarts(&rig.history(), 1);
    load.stop()
}

#[test]
fn broken_configuration_does_not_prevent_a_restart() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let inodes = listening(8080);
    let serving = rig.serving().unwrap();
    rig.configure(&Config::new().section("no-such-section"));
    let load = Load::to([WEB]).start();
    load.until_started(100);
    serving.end();
    rig.until_replaced(serving);
    load.until_further(300);
    let lost = load.stop().summary();
    assert_eq!((lost.refused, lost.timeout, listening(8080)), (0, 0, inodes));
    assert!(rig.warnings().contains("last-known-good") && rig.warnings().contains("no-such-section"));

    rig.configure(&Config::web(WEB));
    rig.reload().expect_status(0);
    assert_eq!(rig.warnings(), "[]");
}

#[test]
fn missing_program_is_reported_and_serves_again_once_restored() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).tables("[reload]\ncustody-max = \"1s\"").start();
    wrapper.remove();
    rig.serving().unwrap().end();
    until_refused(WEB);
    let answer = rig.reload().expect_status(4);
    assert!(answer.at("/reason").to_string().contains("haproxy"), "{}", answer.at("/reason"));
    assert!(rig.serving().is_none() && rig.warnings().contains("the ports are refused"));

    wrapper.restore();
    // The port was closed meanwhile. It is served again, but there is no proof that no client was refused.
    let reason = rig.reload().expect_status(3).at("/reason").to_string();
    assert!(reason.contains("the port had no listener"), "{reason}");
    Load::to([WEB]).connections(100).run().assert_lossless();
    assert_eq!(rig.warnings(), "[]");
}

#[test]
fn two_failed_starts_drop_custody_before_custody_max() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).tables("[reload]\ncustody-max = \"1h\"").start();
    wrapper.set(Behaviour::FailAtOnce);
    rig.serving().unwrap().end();
    until_refused(WEB);
    assert_eq!(*rig.status().at("/custody"), serde_json::json!([]));

    wrapper.set(Behaviour::Normal);
    until(Duration::from_secs(40), "a start to be tried again", || rig.serving().is_some());
    Load::to([WEB]).connections(100).run().assert_lossless();
}

/// Nothing serves, and the start hangs: clients must not wait until `start-timeout`.
#[test]
fn hanging_restart_does_not_keep_custody() {
    netns::enter();
    let wrapper = Wrapper::new();
    let tables = "[reload]\ncustody-max = \"1s\"\nstart-timeout = \"1h\"";
    let rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).tables(tables).start();
    wrapper.set(Behaviour::Hang);
    rig.serving().unwrap().end();
    until_refused(WEB);
    wrapper.set(Behaviour::Normal);
}

/// The number of all sockets of a stopped process. Counting them is quicker than counting those of one port.
fn sockets_of(process: Process) -> usize {
    open_sockets(process.pid).len()
}

fn assert_only_what_was_inside_is_lost(outcomes: &Outcomes, inside: usize) {
    let Summary { refused, timeout, .. } = outcomes.summary();
    eprintln!("{inside} were inside the processes that were killed; {outcomes}");
    assert_eq!((refused, timeout), (0, 0), "{outcomes}");
    assert!(outcomes.summary().failed() <= inside as u64, "{inside} were inside: {outcomes}");
}

fn assert_restarts(history: &Answer, count: usize) {
    let receipts = history.json.as_array().unwrap();
    let restarts: Vec<_> = receipts.iter().filter(|receipt| receipt["kind"] == "restart").collect();
    assert_eq!(restarts.len(), count, "{receipts:?}");
    let times: Vec<_> = restarts.iter().map(|restart| restart["phases-us"]["start"].to_string()).collect();
    eprintln!("microseconds to start again: {}", times.join(" "));
    for restart in restarts {
        let listener = &restart["listeners"][0];
        assert_eq!((&restart["result"], &listener["rung"]), (&"proven".into(), &"passed".into()));
        assert_eq!(listener["inode-before"], listener["inode-after"]);
    }
}

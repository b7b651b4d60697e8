//! Kills the daemon at many moments: HAProxy serves on, and the next daemon takes over what it finds.

use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::idle::IdleConnections;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::mentioning;
use reloader_tests::rig::Rig;
use reloader_tests::servers::{self, Server};
use reloader_tests::sockets::listening;
use reloader_tests::tier;
use reloader_tests::wrapper::{Behaviour, Wrapper};

use super::{IDLE, LIMIT, WEB};

#[test]
#[ignore = "alone: loads"]
fn killed_and_terminated_daemons_leave_haproxy_serving() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", servers::Reaction::Reply);
    let mut rig = Rig::with(&Config::web(WEB).tcp_proxy("idle", &[IDLE], &backend.address.to_string())).start();
    let load = Load::to([WEB]).start();
    let mut idle = IdleConnections::open(IDLE, 100);
    let (serving, inodes) = (rig.serving(), listening(8080));
    let last_start = last_start(&rig);

    load.until_started(300);
    rig.kill9_daemon();
    load.until_further(300);
    rig.start_daemon();
    assert_adopted(&rig);
    assert_eq!(self::last_start(&rig), last_start, "custody-max is computed from the same start time as before");
    load.until_further(300);
    rig.terminate_daemon().expect_status(0);
    load.until_further(300);
    rig.start_daemon();
    assert_adopted(&rig);
    assert_eq!((rig.serving(), listening(8080)), (serving, inodes));

    let receipt = rig.reload().expect_status(0);
    assert_eq!(*receipt.at("/result"), "proven");
    load.until_further(300);
    load.stop().assert_lossless();
    assert_eq!((idle.alive(), idle.count_answered()), (100, 100), "{:?}", idle.deaths());
}

/// The next daemon continues to read HAProxy's output where the last one stopped, and not from the beginning.
#[test]
fn output_of_haproxy_is_logged_once_across_restarts() {
    netns::enter();
    let untimed = "defaults\n  mode http\nfrontend untimed\n  bind 127.0.0.1:8082\n  http-request return status 200\n";
    let mut rig = Rig::with(&Config::web(WEB).section(untimed)).start();
    let first_pid = format!("({})", rig.serving().expect("a generation that serves").pid);
    let times = |rig: &Rig| {
        rig.log().lines().filter(|line| line.contains(&first_pid) && line.contains("missing timeouts")).count()
    };
    until(LIMIT, "HAProxy's warning to be logged", || times(&rig) > 0);
    let before = times(&rig);
    rig.kill9_daemon();
    rig.start_daemon();
    assert_adopted(&rig);
    rig.reload().expect_status(0);
    // Its last output is read then.
    until(LIMIT, "the first generation to be gone", || {
        rig.status().at("/draining").as_array().is_some_and(Vec::is_empty)
    });
    assert_eq!(times(&rig), before, "{}", rig.log());
}

/// The daemon is killed in every phase of a reload.
#[test]
#[ignore = "alone: loads"]
fn daemon_killed_at_any_moment_of_a_reload_leaves_one_generation() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).start();
    let inodes = listening(8080);
    let load = Load::to([WEB]).start();
    load.until_started(100);
    for moment in tier::moments(12) {
        let before = rig.generation_records();
        let reload = rig.spawn(&["reload", "--json"]);
        until(Duration::from_secs(20), "a generation to start", || rig.generation_records() != before);
        // This does not wait for an event: each round kills the daemon a little later.
        std::thread::sleep(Duration::from_millis(moment * 3));
        rig.kill9_daemon();
        let status = reload.wait().status;
        assert!([0, 69].contains(&status), "moment {moment}: {status}");
        rig.start_daemon();
        assert_one_generation(&rig);
        assert_eq!(listening(8080), inodes, "moment {moment}");
    }
    assert_eq!(*rig.reload().expect_status(0).at("/result"), "proven");
    load.stop().assert_lossless();
}

#[test]
fn daemon_killed_before_the_new_generation_runs_leaves_the_old_one_serving() {
    killed_while_starting(Behaviour::WaitForChange);
}

#[test]
fn daemon_killed_before_the_new_generation_is_ready_leaves_the_old_one_serving() {
    killed_while_starting(Behaviour::NoStatsSocket);
}

fn killed_while_starting(behaviour: Behaviour) {
    netns::enter();
    let wrapper = Wrapper::new();
    let mut rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).start();
    let (serving, inodes) = (rig.serving(), listening(8080));
    let load = Load::to([WEB]).start();
    load.until_started(100);
    wrapper.set(behaviour);
    let reload = rig.spawn(&["reload", "--json"]);
    rig.until_generation_starts();
    load.until_further(300);
    rig.kill9_daemon();
    reload.wait().expect_status(69);
    // The waiting child becomes a HAProxy that no daemon follows. It asks a broker that is gone for its sockets.
    wrapper.set(Behaviour::Normal);
    load.until_further(300);
    rig.start_daemon();
    assert_one_generation(&rig);
    assert_eq!((rig.serving(), listening(8080)), (serving, inodes));
    assert_eq!(*rig.reload().expect_status(0).at("/result"), "proven");
    load.stop().assert_lossless();
}

#[track_caller]
fn assert_adopted(rig: &Rig) {
    let history = rig.history();
    assert_eq!((history.at("/0/kind"), history.at("/0/result")), (&"adopt".into(), &"proven".into()));
    for listener in history.at("/0/listeners").as_array().unwrap() {
        assert_eq!((&listener["rung"], &listener["inode-before"]), (&"passed".into(), &listener["inode-after"]));
    }
}

/// Waits until every other generation has drained and ended.
#[track_caller]
fn assert_one_generation(rig: &Rig) {
    let mut expected = vec![rig.daemon_process(), rig.serving().expect("a serving generation")];
    expected.sort();
    until(Duration::from_secs(20), "one generation to be left", || {
        let mut found = mentioning(rig.dir());
        found.sort();
        found == expected
    });
}

fn last_start(rig: &Rig) -> u64 {
    let records: serde_json::Value = serde_json::from_str(&rig.generation_records()).unwrap();
    records["last-start-ms"].as_u64().expect("a measured start")
}

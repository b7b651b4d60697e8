//! A service whose sockets the daemon has, killed; and a daemon, killed.

use nix::sys::signal::Signal;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::sockets::{listening, until_refused};

use crate::scene::{NGINX, WEB, given, nginx_conf, prepared, rungs, started, table, with};

#[test]
fn ten_kills_refuse_nobody() {
    let _alone = netns::enter_alone();
    let rig = started(&given(""));
    let sockets = listening(8080);
    let load = Load::to([WEB]).rate(300).start();
    load.until_started(100);
    for _ in 0..10 {
        let serving = rig.serving().unwrap();
        serving.signal(Signal::SIGKILL);
        rig.until_replaced(serving);
        load.until_further(200);
    }
    let outcomes = load.stop();
    println!("{outcomes}");
    let lost = outcomes.summary();
    assert_eq!((lost.refused, lost.timeout), (0, 0));
    assert_eq!(listening(8080), sockets);
}

/// The next daemon finds it, has its sockets again, and reloads it with proof.
#[test]
fn the_daemon_killed() {
    let _alone = netns::enter_alone();
    let mut rig = started(&given(""));
    let sockets = listening(8080);
    let load = Load::to([WEB]).rate(300).start();
    for _ in 0..3 {
        let serving = rig.serving_pid();
        rig.kill9_daemon();
        load.until_further(50);
        rig.start_daemon();
        assert_eq!(rig.serving_pid(), serving);
        assert_eq!(rig.last_receipt()["kind"], "adopt");
        let receipt = rig.reload().expect_status(0);
        assert_eq!(rungs(receipt.at("")), ["passed"]);
        load.until_further(50);
    }
    load.stop().assert_lossless();
    assert_eq!(listening(8080), sockets);
}

/// Its daemon was killed before it had been recorded.
#[test]
fn one_that_was_never_recorded_is_found_by_its_environment() {
    netns::enter();
    let mut rig = started(&given(""));
    let serving = rig.serving_pid();
    rig.kill9_daemon();
    std::fs::remove_file(rig.path("run/services/given/generations.json")).unwrap();
    rig.start_daemon();
    assert_eq!(rig.serving_pid(), serving);
}

/// A socket that nobody serves is no port: clients are to go elsewhere.
#[test]
fn one_that_does_not_start_again_leaves_a_refused_port() {
    netns::enter();
    let mut rig = prepared(with(&format!("{}[reload]\nstart-timeout = \"2s\"\n", given(""))));
    rig.start_daemon();
    std::fs::write(rig.path("given.py"), "raise SystemExit(7)").unwrap();
    let serving = rig.serving().unwrap();
    serving.signal(Signal::SIGKILL);
    until_refused(WEB);
    until(std::time::Duration::from_secs(10), "the warning", || rig.status().stdout.contains("exited with status 7"));
    std::fs::write(rig.path("given.py"), crate::scene::GIVEN).unwrap();
    until(std::time::Duration::from_secs(40), "it to be tried again", || rig.serving().is_some());
    Load::to([WEB]).connections(20).run().assert_lossless();
    assert!(Process::with_pid(serving.pid).is_none());
}

/// The daemon has no sockets of it: clients are refused until it is there again, and the receipt says so.
#[test]
fn one_that_binds_by_itself() {
    netns::enter();
    let rig = started(&crate::scene::plain());
    let serving = rig.serving().unwrap();
    serving.signal(Signal::SIGKILL);
    rig.until_replaced(serving);
    let receipt = rig.last_receipt();
    assert_eq!(
        (receipt["kind"].as_str(), receipt["result"].as_str()),
        (Some("restart"), Some("unproven")),
        "{receipt}"
    );
    assert!(receipt["reason"].as_str().unwrap().contains("nobody listened on it"), "{receipt}");
    Load::to([WEB]).connections(20).run().assert_lossless();
}

/// Workers that outlive their master are told to end: they would serve an old configuration for ever, and keep the port.
#[test]
fn a_master_killed_takes_its_workers_along() {
    let _alone = netns::enter_alone();
    for (sockets, more) in [("listen-fds", "environment = { NGINX = \"3;\" }"), ("reuseport", ""), ("replace", "")] {
        let lines = format!("stop = \"SIGQUIT\"\n{more}");
        let mut rig = prepared(with(&table("nginx", NGINX, sockets, WEB, &lines)));
        nginx_conf(&rig, &format!("{WEB}{}", if sockets == "reuseport" { " reuseport" } else { "" }));
        rig.start_daemon();
        let master = rig.serving().unwrap();
        let workers = master.children();
        assert!(!workers.is_empty());
        master.signal(Signal::SIGKILL);
        workers.iter().for_each(|worker| worker.until_gone(std::time::Duration::from_secs(20)));
        until(std::time::Duration::from_secs(20), "another to serve", || rig.serving().is_some());
        assert_eq!(rig.reload().expect_status(0).at("/result"), "proven", "{sockets}");
        Load::to([WEB]).connections(50).run().assert_lossless();
    }
}

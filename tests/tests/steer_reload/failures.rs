//! A reload that comes to nothing while connections are steered, and a daemon that dies then.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::footprint::Footprint;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::listening;

use super::{STEER, WEB};

const LIMIT: Duration = Duration::from_secs(20);

/// The new generation has all new connections already: they go back to the old one, and what is queued with them.
#[test]
#[ignore = "alone: loads"]
fn a_handover_that_cannot_be_recorded() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).tables(STEER).start();
    let old = rig.serving();
    let temporary = rig.path("run/generations.tmp");
    // Not even root can write a file where a directory is.
    fs::create_dir_all(temporary.join("in the way")).unwrap();
    let load = Load::to([WEB]).rate(2000).start();
    for _ in 0..5 {
        load.until_further(400);
        let answer = rig.reload().expect_status(1);
        assert!(answer.at("/reason").to_string().contains("cannot be recorded"), "{}", answer.at("/reason"));
        assert_eq!(rig.serving(), old);
    }
    fs::remove_dir_all(&temporary).unwrap();
    load.until_further(400);
    rig.reload().expect_status(0);
    load.until_further(400);
    load.stop().assert_lossless();
}

/// What stands on the group does nothing any more, and the next daemon takes it off.
#[test]
#[ignore = "alone: loads, and looks at the eBPF objects of the whole machine"]
fn a_daemon_killed_while_it_steers() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).tables(STEER).prepare();
    let before = Footprint::take_with_bpf(rig.dir());
    rig.start_daemon();
    let old = rig.serving().unwrap();
    let load = Load::to([WEB]).rate(1000).start();
    load.until_started(200);
    let sockets = listening(8000);
    let next = rig.path("run/generation-2.cfg");
    let reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "the next generation to start", || next.exists());
    // It neither drains nor ends: the reload waits for it.
    old.stop();
    until(LIMIT, "the steering to be on record", || rig.path("run/steered.json").exists());
    until(LIMIT, "the new generation to be the serving one", || {
        fs::read_to_string(rig.path("run/generations.json")).is_ok_and(|text| text.contains("draining"))
    });
    rig.kill9_daemon();
    reload.wait().expect_status(69);
    old.signal(Signal::SIGCONT);
    load.until_further(200);

    rig.start_daemon();
    until(LIMIT, "the old generation to close", || listening(8000).is_disjoint(&sockets));
    until(LIMIT, "the program to be taken off", || {
        rig.log().contains("took the steering program of an earlier daemon off 1")
    });
    assert!(!rig.path("run/steered.json").exists());
    rig.reload().expect_status(0);
    load.until_further(200);
    load.stop().assert_lossless();
    rig.run(&["stop"]).expect_status(0);
    before.assert_unchanged();
}

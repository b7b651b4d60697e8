//! Tests servers that overlap and misbehave while they start: they change their user, go into the background, hang, or start twice.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::receipt::{assert_proven, listener};
use reloader_tests::sockets::{listener_users, listening};

use super::scene::{WEB, rungs};
use super::wayward::{set_manner, wayward_processes, wayward_rig};

const LIMIT: Duration = Duration::from_secs(30);
const NOBODY: u32 = 65534;

/// The kernel lets two sockets share a port only if one user has opened both.
#[test]
fn server_that_changes_its_user_overlaps() {
    netns::enter();
    for (manner, user) in [("changes-user-before-bind", NOBODY), ("changes-user-after-bind", 0)] {
        let mut rig = wayward_rig(|setup| setup, "");
        set_manner(&rig, manner);
        rig.start_daemon();
        for _ in 0..2 {
            assert_eq!(listener_users(8080), [user].into(), "{manner}");
            assert_eq!(listener(&rig.reload().expect_status(0), WEB)["rung"], "steered");
            Load::to([WEB]).connections(20).run().assert_lossless();
        }
        rig.kill9_daemon();
        rig.start_daemon();
        assert_eq!(listener(&rig.reload().expect_status(0), WEB)["rung"], "steered");
    }
}

/// The user of the old listener is changed for the new generation. Where that fails, nothing may stay changed: other processes of the new user could
/// join the port.
#[test]
fn old_listener_gets_its_user_back_when_the_start_fails() {
    netns::enter();
    let mut rig = wayward_rig(|setup| setup, "user = \"nobody\"");
    rig.start_daemon();
    assert_eq!(listener_users(8080), [NOBODY].into());
    let file = rig.path("reloader.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("user = \"nobody\"", "")).unwrap();
    rig.signal_daemon(Signal::SIGHUP);
    set_manner(&rig, "hangs");
    until(LIMIT, "a generation of the new user to fail", || {
        let reload = rig.spawn(&["reload", "--json"]);
        until(LIMIT, "a process", || !wayward_processes(&rig).is_empty());
        until(LIMIT, "two listeners", || listening(8080).len() == 2);
        let during = listener_users(8080);
        let receipt = reload.wait().expect_status(1);
        assert_eq!(receipt.at("/result"), "failed", "{}", receipt.stdout);
        assert_eq!(listener_users(8080), [NOBODY].into());
        during == [0].into()
    });
    set_manner(&rig, "");
    assert_eq!(listener(&rig.reload().expect_status(0), WEB)["rung"], "steered");
    assert_eq!(listener_users(8080), [0].into());
}

/// What it leaves would go on listening beside the old generation, and nothing would follow it.
#[test]
#[ignore = "alone: loads"]
fn processes_that_leave_a_failed_generation_are_ended() {
    netns::enter();
    let mut rig = wayward_rig(|setup| setup, "");
    rig.start_daemon();
    let serving = rig.serving().unwrap();
    let load = Load::to([WEB]).rate(200).start();
    load.until_started(50);
    for manner in
        ["goes-into-the-background", "goes-into-the-background hangs", "leaves-its-tree hangs", "leaves-its-tree"]
    {
        set_manner(&rig, manner);
        let receipt = rig.reload().expect_status(1);
        assert_eq!(receipt.at("/result"), "failed", "{manner}: {}", receipt.stdout);
        assert_eq!(rig.serving(), Some(serving), "{manner}");
        let left = wayward_processes(&rig);
        assert!(left.is_empty(), "{manner}: {left:?} {}", receipt.stdout);
        assert_eq!(listening(8080).len(), 1, "{manner}");
        load.until_further(50);
    }
    load.stop().assert_lossless();
    set_manner(&rig, "");
    assert_eq!(listener(&rig.reload().expect_status(0), WEB)["rung"], "steered");
}

#[test]
fn first_start_that_goes_into_the_background_leaves_no_process() {
    netns::enter();
    let mut rig = wayward_rig(|setup| setup, "");
    set_manner(&rig, "goes-into-the-background");
    let answer = rig.try_start_daemon();
    assert_ne!(answer.status, 0);
    assert!(rig.log().contains("stay in the foreground"), "{}", rig.log());
    assert_eq!(wayward_processes(&rig), []);
    assert!(listening(8080).is_empty());
}

/// Two processes of one generation bind the shared port, each its own socket.
#[test]
#[ignore = "alone: loads"]
fn generation_that_starts_twice_loses_nothing() {
    netns::enter();
    let mut rig = wayward_rig(|setup| setup, "");
    rig.start_daemon();
    let load = Load::to([WEB]).rate(200).start();
    load.until_started(50);
    for (manner, listeners) in [("starts-twice", 2), ("starts-twice", 2), ("", 1)] {
        set_manner(&rig, manner);
        let receipt = rig.reload().expect_status(0);
        assert_proven(&receipt);
        assert!(rungs(&receipt.json).contains(&"steered".to_owned()), "{}", receipt.stdout);
        until(LIMIT, "the old generation to close", || listening(8080).len() == listeners);
        load.until_further(50);
    }
    load.stop().assert_lossless();
}

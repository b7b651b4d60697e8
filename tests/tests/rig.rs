//! Tests the rig itself, with a script in place of reloader: it waits for readiness, kills and restarts, and leaves nothing behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use reloader_tests::config::Config;
use reloader_tests::footprint::Footprint;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::process::mentioning;
use reloader_tests::rig::{Rig, Setup};

fn stand_in() -> Setup {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-in.sh");
    Rig::with(&Config::web("127.0.0.1:8080")).reloader(&script)
}

#[test]
fn daemon_is_started_killed_and_restarted() {
    netns::enter();
    let mut rig = stand_in().start();
    assert!(rig.notified().contains(&"STATUS=serving".to_owned()));
    let serving = rig.serving_pid();
    let daemon = rig.daemon_process();
    rig.kill9_daemon();
    assert!(!daemon.is_alive());
    Load::to(["127.0.0.1:8080"]).connections(20).run().assert_lossless();
    rig.restart_daemon();
    assert_ne!(rig.daemon_process(), daemon);
    assert_eq!(rig.serving_pid(), serving);
    let answer = rig.run(&["nonsense"]);
    assert_eq!((answer.status, answer.stderr.as_str()), (2, "no such command\n"));
}

#[test]
fn fd_store_is_kept_only_if_requested() {
    netns::enter();
    let mut with = stand_in().fd_store().start();
    with.kill9_daemon();
    with.restart_daemon();
    assert!(with.log().contains("passed 1 as null to me"), "{}", with.log());
    drop(with);
    let mut without = stand_in().start();
    without.restart_daemon();
    assert!(!without.log().contains("null"), "{}", without.log());
}

#[test]
fn panicking_test_leaves_nothing_behind() {
    netns::enter();
    let mut left = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut rig = stand_in().prepare();
        left = Some((rig.dir().to_owned(), Footprint::take(rig.dir())));
        rig.start_daemon();
        assert!(mentioning(rig.dir()).len() >= 2, "daemon or HAProxy is missing");
        rig.kill9_daemon();
        panic!("as a failing test does");
    }));
    assert!(panicked.is_err());
    let (dir, footprint) = left.unwrap();
    footprint.assert_unchanged();
    assert!(!dir.exists());
}

#[test]
#[should_panic(expected = "did not become ready")]
fn daemon_that_ends_before_ready_fails_the_test() {
    netns::enter();
    Rig::with(&Config::new()).reloader(Path::new("/bin/false")).start();
}

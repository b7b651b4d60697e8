//! Starts the daemon beside another one, after a dead one, and beside holds that cannot be cleaned up.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;

use super::WEB;

#[test]
fn second_daemon_does_not_start_and_names_the_first() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let second = rig.run(&["daemon"]).expect_status(1);
    let first = format!("another reloader daemon (process {})", rig.daemon_process().pid);
    assert!(second.stderr.contains(&first), "{}", second.stderr);
    rig.reload().expect_status(0);
}

/// A killed daemon, or a child that it was starting, keeps the lock for a moment longer.
#[test]
fn start_waits_for_the_lock_of_a_dead_daemon() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).start();
    let serving = rig.serving();
    let lock = fs::File::open(rig.path("run/lock")).unwrap();
    rig.kill9_daemon();
    lock.lock().unwrap();
    let release = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(lock);
    });
    rig.start_daemon();
    release.join().unwrap();
    assert_eq!(rig.serving(), serving);
}

/// It serves in spite of that, and warns until the clean-up succeeds.
#[test]
fn failed_cleanup_of_holds_is_a_warning() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).prepare();
    fs::create_dir_all(rig.path("run")).unwrap();
    fs::write(rig.path("run/holds"), "no directory").unwrap();
    rig.start_daemon();
    let warnings = || rig.warnings();
    assert!(warnings().contains("a dead hold") && warnings().contains("run/holds"), "{}", warnings());
    assert!(rig.log().contains("a dead hold"), "{}", rig.log());
    fs::remove_file(rig.path("run/holds")).unwrap();
    rig.signal_daemon(Signal::SIGHUP);
    until(Duration::from_secs(20), "no warning", || warnings() == "[]");
}

//! Tests that what blocks one service holds up nothing else: another service is reloaded, `status` answers, and the watchdog is fed while the slow
//! call still blocks. The tests assert this order, and no time.

use std::fs::{self, File};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reloader_tests::blocked_call::BlockedCall;
use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::{Process, with_arguments};
use reloader_tests::rig::{Rig, Setup};
use reloader_tests::wrapper::{Behaviour, Wrapper};

use super::scene::{GIVEN_SERVER, given_table_at};

const LIMIT: Duration = Duration::from_secs(60);

/// HAProxy and another service, with a time limit for a start that no test reaches.
fn setup() -> Setup {
    let tables = format!("[reload]\nstart-timeout = \"1h\"\n{}", given_table_at("127.0.0.1:8081", ""));
    Rig::with(&Config::web("127.0.0.1:8082")).tables(&tables).environment("WATCHDOG_USEC", "30000000")
}

fn start(setup: Setup) -> Rig {
    let mut rig = setup.prepare();
    fs::write(rig.path("given.py"), GIVEN_SERVER).unwrap();
    rig.start_daemon();
    rig
}

/// The other service is reloaded, `status` answers, and the watchdog is fed.
#[track_caller]
fn assert_daemon_works(rig: &Rig) {
    let messages = || rig.notified().iter().filter(|line| *line == "WATCHDOG=1").count();
    let before = messages();
    assert_eq!(rig.run(&["reload", "given", "--json"]).expect_status(0).at("/result"), "proven");
    assert!(rig.status().at("/serving/pid").is_u64());
    until(LIMIT, "a message to the watchdog", || messages() > before);
}

#[test]
fn version_query_that_hangs_holds_up_its_own_service_only() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = start(setup().haproxy_at(&wrapper.path()));
    wrapper.set(Behaviour::HangAtVersion);
    wrapper.upgrade();
    let mut reload = rig.spawn(&["reload", "haproxy", "--json"]);
    until(LIMIT, "the query for the version", || wrapper.hangs_at_version());
    assert_daemon_works(&rig);
    assert!(reload.is_running(), "the query hangs, and the reload waits for it");
    wrapper.set(Behaviour::Normal);
    reload.wait().expect_status(0);
}

#[test]
fn version_query_that_hangs_fails_when_start_timeout_is_over() {
    netns::enter();
    let wrapper = Wrapper::new();
    let config = Config::web("127.0.0.1:8082");
    let rig = start(Rig::with(&config).tables("[reload]\nstart-timeout = \"2s\"\n").haproxy_at(&wrapper.path()));
    wrapper.set(Behaviour::HangAtVersion);
    wrapper.upgrade();
    let failed = rig.run(&["reload", "haproxy", "--json"]).expect_status(1);
    assert_eq!(failed.at("/reason-code"), "start-timed-out");
    let sentence = "did not answer `-v` within 2s";
    assert!(failed.at("/reason").to_string().contains(sentence), "{}", failed.at("/reason"));
    let check = rig.run(&["check"]).expect_status(78).stderr;
    assert!(check.contains(sentence), "{check}");
    let probe = rig.run(&["probe", "--json"]).expect_status(0);
    assert!(probe.at("/haproxy/problem").to_string().contains(sentence), "{}", probe.at("/haproxy/problem"));
}

/// `haproxy -v` has a process group of its own: a signal to the asking process does not reach it.
#[test]
fn version_query_ends_with_the_process_that_asks() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = start(setup().haproxy_at(&wrapper.path()));
    wrapper.set(Behaviour::HangAtVersion);
    let query = || with_arguments(&[&wrapper.path().display().to_string(), "-v"]);
    let mut check = rig.spawn(&["check"]);
    until(LIMIT, "the query for the version", || !query().is_empty());
    kill(Pid::from_raw(check.pid() as i32), Signal::SIGKILL).unwrap();
    until(LIMIT, "the check to end", || !check.is_running());
    until(LIMIT, "the query to end", || query().is_empty());
    wrapper.set(Behaviour::Normal);
}

/// Whether a thread of the process is in fsync(2), by its number on this machine.
fn is_in_fsync(process: Process) -> bool {
    let call = format!("{} ", nix::libc::SYS_fsync);
    let threads = fs::read_dir(format!("/proc/{}/task", process.pid)).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("syscall")).ok())
        .any(|text| text.starts_with(&call))
}

/// The last-known-good configuration is written with fsync(2), the receipts of the other service are not.
#[test]
fn fsync_that_hangs_holds_up_its_own_service_only() {
    netns::enter();
    let rig = start(setup());
    let daemon = rig.daemon_process();
    Config::web("127.0.0.1:8082").global("maxconn 77").write(&rig.haproxy_cfg());
    let blocked = BlockedCall::in_all_threads(daemon, "fsync");
    let reload = rig.spawn(&["reload", "haproxy", "--json"]);
    until(LIMIT, "fsync", || is_in_fsync(daemon));
    assert_daemon_works(&rig);
    assert!(is_in_fsync(daemon), "fsync hangs");
    drop(blocked);
    reload.wait().expect_status(0);
}

/// SIGHUP cleans up after dead holds once more where that failed before, under the lock of the hold registry.
#[test]
fn registry_lock_that_is_held_holds_up_its_own_service_only() {
    netns::enter();
    let mut rig = setup().prepare();
    fs::write(rig.path("given.py"), GIVEN_SERVER).unwrap();
    fs::create_dir_all(rig.path("run")).unwrap();
    fs::write(rig.path("run/holds"), "not a directory").unwrap();
    rig.start_daemon();
    assert!(rig.warnings().contains("a dead hold"), "{}", rig.warnings());
    fs::remove_file(rig.path("run/holds")).unwrap();
    fs::create_dir(rig.path("run/holds")).unwrap();
    let directory = File::open(rig.path("run/holds")).unwrap();
    let lock = Flock::lock(directory, FlockArg::LockExclusive).expect("the registry's lock");
    let has_read = |service: &str| rig.log().contains(&format!("{service}: reloader's configuration was read again"));
    rig.signal_daemon(Signal::SIGHUP);
    until(LIMIT, "the other service to take the configuration", || has_read("given"));
    assert_daemon_works(&rig);
    assert!(!has_read("haproxy"), "{}", rig.log());
    drop(lock);
    until(LIMIT, "the first service to take the configuration", || has_read("haproxy"));
    until(LIMIT, "the warning to go", || !rig.warnings().contains("a dead hold"));
}

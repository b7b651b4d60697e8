//! Ends and starts the daemon: HAProxy serves on, and the next daemon takes over what it finds.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::idle::IdleConnections;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::mentioning;
use reloader_tests::rig::Rig;
use reloader_tests::servers::{self, Server};
use reloader_tests::sockets::{listening, refuses, until_refused};
use reloader_tests::tier;
use reloader_tests::wrapper::{Behaviour, Wrapper};

const WEB: &str = "127.0.0.1:8080";
const IDLE: &str = "127.0.0.1:8081";

const LIMIT: Duration = Duration::from_secs(20);

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

#[test]
fn stop_leaves_no_process_and_no_file() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).start();
    rig.reload().expect_status(0);
    rig.run(&["stop"]).expect_status(0);
    rig.until_daemon_ends().expect_status(0);
    assert_nothing_left(&rig);
}

/// It waits for older generations too, not only for the one that served last.
#[test]
fn stop_waits_for_generations_without_connections_and_names_the_others() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", servers::Reaction::Reply);
    let config = Config::web(WEB).tcp_proxy("idle", &[IDLE], &backend.address.to_string());
    let mut rig = Rig::with(&config).start();
    let (drains, mut first_client) = (rig.serving().unwrap(), IdleConnections::open(IDLE, 1));
    rig.reload().expect_status(0);
    let (slow, ending_client) = (rig.serving().unwrap(), IdleConnections::open(IDLE, 1));
    rig.reload().expect_status(0);
    let (last, mut last_client) = (rig.serving().unwrap(), IdleConnections::open(IDLE, 1));
    slow.signal(Signal::SIGSTOP);
    drop(ending_client);
    let stop = rig.spawn(&["stop"]);
    until_refused(WEB);
    slow.signal(Signal::SIGCONT);
    let messages = stop.wait().expect_status(0).stderr;
    let expected = format!("processes {}, {} drain open connections", drains.pid, last.pid);
    assert!(messages.contains(&expected), "{messages}");
    rig.until_daemon_ends().expect_status(0);
    assert_eq!((first_client.alive(), last_client.alive(), slow.is_alive()), (1, 1, false));
    let left = generation_files(&rig);
    assert!(left.iter().all(|name| !name.starts_with("generation-2.")), "{left:?}");
    assert!(left.len() > 1, "files of draining generations stay: {left:?}");
}

#[test]
fn on_stop_retire_leaves_no_process_and_no_file() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).top("on-stop = \"retire\"").start();
    rig.terminate_daemon().expect_status(0);
    assert_nothing_left(&rig);
}

#[test]
fn sighup_reads_the_configuration_and_keeps_the_old_one_if_it_is_broken() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let file = rig.path("reloader.toml");
    let text = fs::read_to_string(&file).unwrap();
    Config::new().frontend("web", &[WEB, "127.0.0.1:8082"]).write(&rig.path("other.cfg"));

    fs::write(&file, text.replace("haproxy.cfg", "other.cfg")).unwrap();
    hang_up(&rig);
    rig.reload().expect_status(0);
    assert!(!refuses("127.0.0.1:8082"));

    fs::write(&file, text + "\nnonsense = 1\n").unwrap();
    hang_up(&rig);
    // The commands read the file too. With --socket they need nothing from it.
    let socket = rig.path("run/control.sock");
    let ask = |command| rig.run(&["--socket", socket.to_str().unwrap(), command, "--json"]).expect_status(0);
    let warnings = ask("status").at("/warnings").to_string();
    assert!(warnings.contains("nonsense"), "{warnings}");
    ask("reload");
    assert!(!refuses("127.0.0.1:8082"));
}

/// The warning has an owner of its own: a good reload says nothing about a file that was not read.
#[test]
fn broken_configuration_stays_reported_through_good_reloads_until_it_is_mended() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let file = rig.path("reloader.toml");
    let text = fs::read_to_string(&file).unwrap();
    let socket = rig.path("run/control.sock");
    let ask = |command| rig.run(&["--socket", socket.to_str().unwrap(), command, "--json"]).expect_status(0);
    let is_reported = || ask("status").at("/warnings").to_string().contains("nonsense");

    fs::write(&file, text.clone() + "\nnonsense = 1\n").unwrap();
    hang_up(&rig);
    assert!(is_reported());
    for _ in 0..2 {
        assert_eq!(ask("reload").at("/result"), "proven");
        assert!(is_reported(), "after a good reload");
    }
    fs::write(&file, text).unwrap();
    hang_up(&rig);
    assert!(!is_reported());
}

#[test]
fn watchdog_is_served_while_a_start_hangs() {
    netns::enter();
    let wrapper = Wrapper::new();
    let setup = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).environment("WATCHDOG_USEC", "30000000");
    let rig = setup.start();
    until_watchdog_is_served(&rig);
    wrapper.set(Behaviour::WaitForChange);
    let mut reload = rig.spawn(&["reload", "--json"]);
    rig.until_generation_starts();
    until_watchdog_is_served(&rig);
    assert!(reload.is_running());
    wrapper.set(Behaviour::Normal);
    reload.wait().expect_status(0);
}

/// The operator sets `drain-timeout`, which may be longer than the watchdog's limit.
#[test]
fn watchdog_is_served_while_the_old_generation_stops_slowly() {
    netns::enter();
    let setup = Rig::with(&Config::web(WEB)).tables("[reload]\ndrain-timeout = \"2m\"\n");
    let rig = setup.environment("WATCHDOG_USEC", "30000000").start();
    let old = rig.serving().expect("a serving generation");
    old.signal(Signal::SIGSTOP);
    let mut reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "the old generation to be retired", || rig.generation_records().contains("\"draining\""));
    until_watchdog_is_served(&rig);
    assert!(reload.is_running());
    old.signal(Signal::SIGCONT);
    reload.wait().expect_status(0);
}

fn until_watchdog_is_served(rig: &Rig) {
    let messages = || rig.notified().iter().filter(|line| *line == "WATCHDOG=1").count();
    let before = messages();
    until(Duration::from_secs(20), "two messages to the watchdog", || messages() >= before + 2);
}

fn hang_up(rig: &Rig) {
    let ready = || rig.notified().iter().filter(|line| *line == "READY=1").count();
    let before = ready();
    rig.signal_daemon(Signal::SIGHUP);
    until(Duration::from_secs(20), "READY=1 again", || ready() > before);
}

#[track_caller]
fn assert_adopted(rig: &Rig) {
    let history = rig.history();
    assert_eq!((history.at("/0/kind"), history.at("/0/result")), (&"adopt".into(), &"proven".into()));
    for listener in history.at("/0/listeners").as_array().unwrap() {
        assert_eq!((&listener["rung"], &listener["inode-before"]), (&"passed".into(), &listener["inode-after"]));
    }
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

fn assert_nothing_left(rig: &Rig) {
    until_refused(WEB);
    until(Duration::from_secs(20), "all processes to end", || mentioning(rig.dir()).is_empty());
    assert_eq!(generation_files(rig), [""; 0]);
}

fn generation_files(rig: &Rig) -> Vec<String> {
    let names = fs::read_dir(rig.path("run")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("generation-")).collect()
}

fn last_start(rig: &Rig) -> u64 {
    let records: serde_json::Value = serde_json::from_str(&rig.generation_records()).unwrap();
    records["last-start-ms"].as_u64().expect("a measured start")
}

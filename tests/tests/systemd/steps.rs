//! Steps that an operator takes, or an accident causes, with the unit that runs the daemon. After each step `systemctl status` must show the
//! real state.

use std::thread::sleep;
use std::time::Duration;

use reloader_tests::blocked_call::BlockedCall;
use reloader_tests::poll::until;
use reloader_tests::sockets::refuses;
use reloader_tests::tier;
use serde_json::Value;

use super::scene::{LIMIT, Scene, WEB, config};

const CONFIG: &str = "/etc/haproxy/haproxy.cfg";
const TOML: &str = "/etc/reloader/reloader.toml";

/// Reloads every 100 ms, as a hasty deployment does.
pub(crate) fn rapid_reloads(scene: &Scene) {
    let before = scene.receipts().len();
    let reloads = tier::rounds(50);
    for _ in 0..reloads {
        scene.reload();
        sleep(Duration::from_millis(100));
    }
    let receipts = scene.receipts();
    let new = &receipts[..receipts.len() - before];
    println!("{reloads} reloads, {} receipts", new.len());
    assert_eq!(new.len(), reloads);
    for receipt in new {
        assert_eq!((&receipt["kind"], &receipt["result"]), (&"reload".into(), &"proven".into()), "{receipt:#}");
        let listeners = receipt["listeners"].as_array().unwrap();
        assert!(listeners.iter().all(|listener| listener["rung"] == "passed"), "{receipt:#}");
        assert_eq!(receipt["notes"], serde_json::json!([]), "{receipt:#}");
    }
    scene.assert_status("last reload proven");
}

pub(crate) fn a_failing_configuration(scene: &Scene) {
    let (serving, receipts) = (scene.status()["serving"].clone(), scene.receipts().len());
    // The check refuses the configuration, so nothing is reloaded.
    scene.machine.write(CONFIG, config().section("frobnicate\n"));
    scene.reload_fails();
    assert!(scene.machine.journal(scene.unit).contains("frobnicate"));
    let shown = scene.machine.run(&["systemctl", "status", "--no-pager", "--full", scene.unit]).stdout;
    let check = "ExecReload=/usr/local/bin/reloader check --for-reload (code=exited, status=78)";
    assert!(shown.contains(check), "{shown}");
    scene.assert_status("; not reloaded since: HAProxy refuses its configuration");
    assert_eq!((&scene.status()["serving"], scene.receipts().len()), (&serving, receipts));
    // The check accepts the configuration, but the new generation cannot bind.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    scene.machine.write(CONFIG, config().frontend("taken", &[&port.to_string()]));
    scene.reload_fails();
    scene.assert_status("last reload failed: ");
    assert_eq!(scene.status()["serving"], serving);
    // The earlier refusal is no longer reported.
    assert!(!scene.property("StatusText").contains("not reloaded since"));
    scene.machine.write(CONFIG, config());
    scene.reload();
    scene.assert_status("last reload proven");
}

pub(crate) fn the_daemon_is_restarted(scene: &Scene) {
    let (serving, daemon) = (scene.serving(), scene.main_pid());
    scene.machine.systemctl(&["restart", scene.unit]);
    assert_ne!(scene.main_pid(), daemon);
    assert_eq!(scene.serving(), serving);
    scene.assert_stored();
    scene.assert_status("last adoption proven");
    scene.reload();
    scene.assert_status("last reload proven");
}

pub(crate) fn the_daemon_is_killed(scene: &Scene) {
    let (serving, daemon) = (scene.serving(), scene.main_pid());
    scene.machine.run(&["kill", "-9", &daemon]).expect_status(0);
    scene.until_another_main_pid(&daemon);
    assert_eq!(scene.serving(), serving);
    scene.assert_stored();
    scene.assert_status("last adoption proven");
    scene.reload();
    scene.assert_status("last reload proven");
}

/// HAProxy keeps serving. The fd store is emptied, because no daemon would close the sockets in it.
pub(crate) fn the_unit_is_stopped(scene: &Scene) {
    let serving = scene.serving();
    scene.machine.systemctl(&["stop", scene.unit]);
    until(LIMIT, "the fd store to be empty", || scene.property("NFileDescriptorStore") == "0");
    assert!(!refuses(WEB));
    scene.assert_unit_shows(
        "inactive (dead)",
        &["the daemon has ended", &format!("(process {serving}) was left serving")],
    );
    scene.machine.systemctl(&["start", scene.unit]);
    assert_eq!(scene.serving(), serving);
    scene.assert_stored();
    scene.assert_status("last adoption proven");
}

/// Restarts the unit more often than systemd's start limit would allow (5 in 10 s by default).
pub(crate) fn rapid_restarts(scene: &Scene) {
    let serving = scene.serving();
    for _ in 0..10 {
        scene.machine.systemctl(&["restart", scene.unit]);
    }
    assert_eq!(scene.serving(), serving);
    scene.assert_status("last adoption proven");
}

/// An invalid reloader.toml is refused at a reload, and by a daemon that starts. systemd does not restart that daemon, and HAProxy keeps
/// serving.
pub(crate) fn an_invalid_reloader_toml(scene: &Scene) {
    let serving = scene.serving();
    scene.machine.write(TOML, "nonsense = 1\n");
    scene.reload_fails();
    scene.assert_status(&format!("; not reloaded since: {TOML}: "));
    assert_ne!(scene.machine.run(&["systemctl", "restart", scene.unit]).status, 0);
    let shown = scene.machine.run(&["systemctl", "status", "--no-pager", "--full", scene.unit]).stdout;
    assert!(shown.contains("failed (Result: exit-code)") && shown.contains("status=78"), "{shown}");
    assert_eq!(scene.property("NRestarts"), "0");
    assert!(!refuses(WEB));
    scene.machine.write(TOML, "");
    scene.machine.systemctl(&["start", scene.unit]);
    assert_eq!(scene.serving(), serving);
    scene.assert_status("last adoption proven");
}

pub(crate) fn the_watchdog_is_served(scene: &Scene) {
    let last_report = || scene.property("WatchdogTimestampMonotonic");
    let before = last_report();
    until(LIMIT, "systemd to hear of the daemon's loop", || last_report() != before);
}

/// Only the loop hangs: it does not return from its wait for events. systemd ends the daemon and starts another one.
pub(crate) fn the_watchdog_ends_a_daemon_whose_loop_hangs(scene: &Scene) {
    let (serving, daemon) = (scene.serving(), scene.main_pid());
    let process = scene.machine.process(daemon.parse().expect("a pid")).expect("the daemon");
    assert_eq!(scene.watchdog_timeouts(), 0);
    let blocked = BlockedCall::in_first_thread(process, "?epoll_wait,?epoll_pwait");
    until(LIMIT, "the watchdog to end the daemon", || scene.watchdog_timeouts() == 1);
    // A traced thread is not ended by the watchdog's SIGABRT.
    drop(blocked);
    scene.until_another_main_pid(&daemon);
    assert_eq!(scene.watchdog_timeouts(), 1);
    assert_eq!(scene.serving(), serving);
    scene.assert_status("last adoption proven");
}

pub(crate) fn haproxy_is_killed(scene: &Scene) {
    let before = scene.serving();
    scene.machine.run(&["kill", "-9", &before.to_string()]).expect_status(0);
    until(LIMIT, "another generation", || ![&Value::Null, &before].contains(&&scene.serving()));
    scene.assert_status("last restart proven");
    scene.assert_stored();
}

/// Only systemd still has the sockets: clients wait for the next daemon.
pub(crate) fn both_are_killed(scene: &Scene) {
    let (before, daemon) = (scene.serving(), scene.main_pid());
    scene.machine.run(&["kill", "-9", &daemon, &before.to_string()]).expect_status(0);
    scene.until_another_main_pid(&daemon);
    assert_ne!(scene.serving(), before);
    let receipt = &scene.receipts()[0];
    assert_eq!((&receipt["kind"], &receipt["result"]), (&"restart".into(), &"proven".into()), "{receipt:#}");
    scene.assert_status("last restart proven");
    scene.assert_stored();
}

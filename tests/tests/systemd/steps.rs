//! What an operator and an accident do to the unit that runs the daemon, whichever it is. At each step `systemctl status` tells the truth.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::thread::sleep;
use std::time::Duration;

use reloader_tests::poll::until;
use reloader_tests::sockets::refuses;
use reloader_tests::tier;
use serde_json::Value;

use super::scene::{LIMIT, Scene, WEB, config};

const CONFIG: &str = "/etc/haproxy/haproxy.cfg";
const TOML: &str = "/etc/reloader/reloader.toml";

/// 100 ms apart, as a deployment that has lost its patience.
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
    // The check refuses it: nothing is reloaded at all.
    scene.machine.write(CONFIG, config().section("frobnicate\n"));
    scene.reload_fails();
    assert!(scene.machine.journal(scene.unit).contains("frobnicate"));
    let shown = scene.machine.run(&["systemctl", "status", "--no-pager", "--full", scene.unit]).stdout;
    let check = "ExecReload=/usr/local/bin/reloader check --for-reload (code=exited, status=78)";
    assert!(shown.contains(check), "{shown}");
    scene.assert_status("; not reloaded since: HAProxy refuses its configuration");
    assert_eq!((&scene.status()["serving"], scene.receipts().len()), (&serving, receipts));
    // The check finds nothing wrong, the new generation cannot bind.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    scene.machine.write(CONFIG, config().frontend("taken", &[&port.to_string()]));
    scene.reload_fails();
    scene.assert_status("last reload failed: ");
    assert_eq!(scene.status()["serving"], serving);
    // What was refused before is told no longer.
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
    scene.until_another(&daemon);
    assert_eq!(scene.serving(), serving);
    scene.assert_stored();
    scene.assert_status("last adoption proven");
    scene.reload();
    scene.assert_status("last reload proven");
}

/// HAProxy serves on; what systemd kept would have nobody to look after it.
pub(crate) fn the_unit_is_stopped(scene: &Scene) {
    let serving = scene.serving();
    scene.machine.systemctl(&["stop", scene.unit]);
    until(LIMIT, "the fd store to be empty", || scene.property("NFileDescriptorStore") == "0");
    assert!(!refuses(WEB));
    scene.assert_says("inactive (dead)", &["the daemon has ended", &format!("(process {serving}) was left serving")]);
    scene.machine.systemctl(&["start", scene.unit]);
    assert_eq!(scene.serving(), serving);
    scene.assert_stored();
    scene.assert_status("last adoption proven");
}

/// More often than systemd's start limit would allow (5 in 10 s by default).
pub(crate) fn rapid_restarts(scene: &Scene) {
    let serving = scene.serving();
    for _ in 0..10 {
        scene.machine.systemctl(&["restart", scene.unit]);
    }
    assert_eq!(scene.serving(), serving);
    scene.assert_status("last adoption proven");
}

/// reloader.toml is refused when it is read, and by a daemon that starts: that one is not tried again and again, and HAProxy serves on.
pub(crate) fn a_wrong_reloader_toml(scene: &Scene) {
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

pub(crate) fn the_watchdog_is_told(scene: &Scene) {
    let heard = || scene.property("WatchdogTimestampMonotonic");
    let before = heard();
    until(LIMIT, "systemd to hear of the daemon's loop", || heard() != before);
}

/// Its main loop stands still, and nothing else of it: it reads a configuration whose end does not come. systemd ends it, and starts another.
pub(crate) fn the_watchdog_ends_one_whose_loop_hangs(scene: &Scene) {
    let (serving, daemon) = (scene.serving(), scene.main_pid());
    scene.machine.write(TOML, "");
    std::fs::remove_file(scene.machine.inside(TOML)).unwrap();
    scene.machine.run(&["mkfifo", TOML]).expect_status(0);
    scene.machine.run(&["kill", "-HUP", &daemon]).expect_status(0);
    // It can be opened once somebody reads (fifo(7)).
    let mut open = OpenOptions::new();
    open.write(true).custom_flags(nix::libc::O_NONBLOCK);
    let mut end = None;
    until(LIMIT, "the daemon to read its configuration", || {
        end = open.open(scene.machine.inside(TOML)).ok();
        end.is_some()
    });
    std::fs::remove_file(scene.machine.inside(TOML)).unwrap();
    assert_eq!(scene.watchdog_timeouts(), 0);
    scene.until_another(&daemon);
    drop(end);
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

/// Nobody is left but systemd, which has the sockets: clients wait for the next daemon.
pub(crate) fn both_are_killed(scene: &Scene) {
    let (before, daemon) = (scene.serving(), scene.main_pid());
    scene.machine.run(&["kill", "-9", &daemon, &before.to_string()]).expect_status(0);
    scene.until_another(&daemon);
    assert_ne!(scene.serving(), before);
    let receipt = &scene.receipts()[0];
    assert_eq!((&receipt["kind"], &receipt["result"]), (&"restart".into(), &"proven".into()), "{receipt:#}");
    scene.assert_status("last restart proven");
    scene.assert_stored();
}

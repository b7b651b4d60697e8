//! Tests reloader.service.

use reloader_tests::booted::Machine;
use reloader_tests::poll::until;
use reloader_tests::receipt::listener;
use reloader_tests::sockets::until_refused;

use super::scene::{CONNECTIONS, LIMIT, Scene, WEB, config};
use super::{steps, unit_file};

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn unit_reloads_restarts_and_survives_kills() {
    let scene = Scene::boot(Machine::setup().with_reloader_service(), "reloader.service");
    unit_file::check(&scene.machine);
    scene.assert_status("generation 1 serves 3 listeners, 0 draining; last start proven");
    steps::the_watchdog_is_served(&scene);
    let load = scene.load();

    steps::rapid_reloads(&scene);
    holds_work_in_the_sandbox(&scene);
    overlap_works_in_the_sandbox(&scene);
    an_unproven_reload_is_done(&scene);
    let mut idle = scene.idle();
    steps::a_failing_configuration(&scene);
    steps::the_daemon_is_restarted(&scene);
    steps::the_daemon_is_killed(&scene);
    steps::the_unit_is_stopped(&scene);
    assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());
    steps::rapid_restarts(&scene);
    steps::an_invalid_reloader_toml(&scene);
    steps::the_watchdog_ends_a_daemon_whose_loop_hangs(&scene);
    assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());

    load.until_further(500);
    let outcomes = load.stop();
    println!("{outcomes}");
    outcomes.assert_lossless();

    let load = scene.load();
    steps::haproxy_is_killed(&scene);
    steps::both_are_killed(&scene);
    load.until_further(500);
    let outcomes = load.stop();
    println!("with HAProxy killed: {outcomes}");
    let lost = outcomes.summary();
    // Connections inside a killed HAProxy are lost with it.
    assert_eq!((lost.refused, lost.timeout), (0, 0), "{outcomes}");
    haproxy_of_another_unit_is_adopted(&scene);
    // The watchdog ended only the daemon whose main loop hung.
    assert_eq!(scene.watchdog_timeouts(), 1);
}

/// Holds need eBPF, raw sockets and netlink, which passing does not need.
fn holds_work_in_the_sandbox(scene: &Scene) {
    restart_with(scene, "[reload]\nstrategy = \"hold\"\n");
    for _ in 0..3 {
        let receipt = scene.machine.reloader(&["reload", "--json"]).expect_status(0);
        assert_eq!(listener(&receipt, WEB)["rung"], "held-ebpf", "{}", receipt.stdout);
    }
    restart_with(scene, "");
    scene.reload();
    scene.assert_status("last reload proven");
}

/// A control group can be made below that of the unit, and a program attached to it.
fn overlap_works_in_the_sandbox(scene: &Scene) {
    scene.machine.write("/etc/haproxy/haproxy.cfg", config().global("noreuseport"));
    restart_with(scene, "[reload]\nstrategy = \"steer\"\n");
    for _ in 0..3 {
        let receipt = scene.machine.reloader(&["reload", "--json"]).expect_status(0);
        assert_eq!(listener(&receipt, WEB)["rung"], "steered", "{}", receipt.stdout);
    }
    let notes = scene.receipts()[0]["notes"].to_string();
    assert!(notes.contains("(overlap)"), "{notes}");
    scene.machine.write("/etc/haproxy/haproxy.cfg", config());
    restart_with(scene, "");
    scene.reload();
}

/// HAProxy cannot take over the socket of a single IPv6 address without `v6only`.
fn an_unproven_reload_is_done(scene: &Scene) {
    scene.machine.write("/etc/haproxy/haproxy.cfg", config().frontend("one", &["[::1]:8002"]));
    restart_with(scene, "[reload]\nstrategy = \"fd-pass\"\n");
    scene.reload();
    let before = scene.serving();
    scene.reload();
    scene.assert_status("last reload done, but unproven: [::1]:8002");
    assert_ne!(scene.serving(), before);
    restart_with(scene, "[reload]\nstrategy = \"fd-pass\"\nrequire = \"proven\"\n");
    scene.reload_fails();
    scene.assert_status("last reload failed: require = \"proven\"");
    scene.machine.write("/etc/haproxy/haproxy.cfg", config());
    restart_with(scene, "");
    scene.reload();
}

/// Writes reloader.toml and restarts the daemon.
fn restart_with(scene: &Scene, text: &str) {
    scene.machine.write("/etc/reloader/reloader.toml", text);
    scene.machine.systemctl(&["restart", scene.unit]);
}

/// The daemon adopts a HAProxy that was started by Debian's own unit. That unit must not start HAProxy again.
fn haproxy_of_another_unit_is_adopted(scene: &Scene) {
    scene.machine.reloader(&["stop"]).expect_status(0);
    scene.assert_unit_shows("inactive (dead)", &["the daemon has ended, and nothing serves"]);
    until_refused(WEB);
    scene.machine.write("/etc/systemd/system/haproxy.service.d/once.conf", "[Service]\nRestart=no\n");
    scene.machine.systemctl(&["daemon-reload"]);
    scene.machine.systemctl(&["start", "haproxy.service"]);
    let load = scene.load();
    scene.machine.systemctl(&["start", scene.unit]);
    scene.assert_status("last adoption proven");
    scene.reload();
    scene.assert_status("last reload proven");
    until(LIMIT, "Debian's unit to have drained", || {
        scene.machine.unit("haproxy.service").get("ActiveState") == "inactive"
    });
    load.until_further(300);
    load.stop().assert_lossless();
}

//! Tests Debian's own haproxy.service, and the same unit after the takeover: a restart, an upgrade, and a reload that
//! cannot succeed.

use std::net::TcpListener;

use reloader_tests::booted::Machine;
use reloader_tests::load::Summary;

use super::scene::{CONNECTIONS, Scene, config};

const CONFIG: &str = "/etc/haproxy/haproxy.cfg";

/// The command that dpkg runs after it has replaced HAProxy's program.
const UPGRADE: &str = "DPKG_MAINTSCRIPT_PACKAGE=haproxy DPKG_MAINTSCRIPT_NAME=postinst \
                       /var/lib/dpkg/info/haproxy.postinst configure 2.6.0-1";

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn restarts_and_failed_reloads_lose_connections_until_the_unit_is_taken_over() {
    let scene = Scene::boot(Machine::setup(), "haproxy.service");
    let plain = restart(&scene);
    assert!(plain.lost.refused > 0 && plain.alive == 0, "{} of {CONNECTIONS} alive, {}", plain.alive, plain.lost);
    let (status, lost) = reload_in_vain(&scene);
    assert_eq!(status, 0, "the unit reports success");
    assert!(lost.failed() > 0, "{lost}");

    scene.machine.reloader(&["takeover"]).expect_status(0);
    let ours = restart(&scene);
    assert!(
        ours.lost.failed() == 0 && ours.alive == CONNECTIONS,
        "{} of {CONNECTIONS} alive, {}",
        ours.alive,
        ours.lost
    );
    let (status, lost) = reload_in_vain(&scene);
    assert_ne!(status, 0, "the unit reports that the reload failed");
    assert_eq!(lost.failed(), 0, "{lost}");
    upgrade(&scene);
}

struct Restart {
    lost: Summary,
    /// Connections that were open before and after.
    alive: usize,
}

fn restart(scene: &Scene) -> Restart {
    let (load, mut idle) = (scene.load(), scene.idle());
    scene.machine.systemctl(&["restart", scene.unit]);
    load.until_further(500);
    let outcomes = load.stop();
    println!("restart: {} of {CONNECTIONS} connections alive, {outcomes}", idle.alive());
    Restart { lost: outcomes.summary(), alive: idle.alive() }
}

/// The check accepts the configuration, but the new process cannot bind. Returns the exit status of `systemctl reload`.
fn reload_in_vain(scene: &Scene) -> (i32, Summary) {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    scene.machine.write(CONFIG, config().frontend("taken", &[&taken.local_addr().unwrap().to_string()]));
    let load = scene.load();
    let answer = scene.machine.run(&["systemctl", "reload", scene.unit]);
    // Without reloader, HAProxy tries to bind for two seconds after systemctl has returned.
    load.until_further(3000);
    let outcomes = load.stop();
    println!("reload in vain: exit status {}, {outcomes}", answer.status);
    scene.machine.write(CONFIG, config());
    scene.reload();
    (answer.status, outcomes.summary())
}

/// Debian's package reloads the unit. No connection is lost, and the receipt is proven.
fn upgrade(scene: &Scene) {
    let (load, mut idle, before) = (scene.load(), scene.idle(), scene.receipts().len());
    scene.machine.run(&["sh", "-c", UPGRADE]).expect_status(0);
    let receipts = scene.receipts();
    assert_eq!(receipts.len(), before + 1);
    assert_eq!(
        (&receipts[0]["kind"], &receipts[0]["result"]),
        (&"reload".into(), &"proven".into()),
        "{:#}",
        receipts[0]
    );
    load.until_further(500);
    load.stop().assert_lossless();
    assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());
}

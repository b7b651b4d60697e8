//! Tests a takeover, and its undoing, that are killed in the middle: what they leave is found and put right by the next one.

use reloader_tests::booted::Machine;
use reloader_tests::poll::until;

use super::scene::{CONNECTIONS, DROP_IN, LIMIT, Scene, UNIT};

const HANDOVER: &str = "/run/systemd/system/haproxy.service.d/zzz-reloader-handover.conf";

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn killed_takeover_is_completed_by_the_next_one() {
    let scene = Scene::boot(Machine::setup(), UNIT);
    let load = scene.load();
    let mut idle = scene.idle();
    let before_the_restart = || format!("[ -e {HANDOVER} ]");
    let after_the_restart = |main: &str| format!("[ $(systemctl show --property MainPID --value {UNIT}) != {main} ]");

    kill_when(&scene, "takeover", &before_the_restart());
    complete(&scene, "takeover");
    assert!(scene.machine.inside(DROP_IN).exists());
    scene.assert_status("last adoption proven");
    scene.reload();

    kill_when(&scene, "takeover --undo", &before_the_restart());
    complete(&scene, "takeover --undo");
    assert!(!scene.machine.inside(DROP_IN).exists());

    kill_when(&scene, "takeover", &after_the_restart(&scene.main_pid()));
    complete(&scene, "takeover");
    scene.assert_status("last adoption proven");
    scene.reload();

    kill_when(&scene, "takeover --undo", &after_the_restart(&scene.main_pid()));
    complete(&scene, "takeover --undo");
    assert!(!scene.machine.inside(DROP_IN).exists() && !scene.machine.inside("/etc/reloader/reloader.toml").exists());
    until(LIMIT, "the daemon's generation to stop listening", || {
        let generations = scene.machine.run(&["pgrep", "-f", "reloader/generation-.*cfg"]).stdout;
        !generations.lines().any(|generation| scene.listens(generation))
    });
    scene.reload();

    load.until_further(500);
    assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());
    let outcomes = load.stop();
    println!("{outcomes}");
    outcomes.assert_lossless();
}

/// Kills the command with SIGKILL as soon as the condition holds. What it was about to remove is left.
#[track_caller]
fn kill_when(scene: &Scene, command: &str, condition: &str) {
    let script = format!(
        "reloader {command} & until {condition}; do kill -0 $! || exit 9; done; kill -9 $!; wait $!; [ -e {HANDOVER} ]"
    );
    scene.machine.run(&["sh", "-c", &script]).expect_status(0);
}

/// The same command again does what was asked, and removes what the killed one has left.
#[track_caller]
fn complete(scene: &Scene, command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let completed = scene.machine.reloader(&words).expect_status(0);
    println!("{command}: {}{}", completed.stdout, completed.stderr);
    assert!(!scene.machine.inside(HANDOVER).exists());
}

//! `reloader takeover`: Debian's own haproxy.service becomes reloader's under load, and HAProxy's own again.

use reloader_tests::booted::Machine;
use reloader_tests::load::Load;
use reloader_tests::poll::until;
use reloader_tests::rig::Answer;

use super::scene::{CONNECTIONS, LIMIT, Scene, config};
use super::steps;

const UNIT: &str = "haproxy.service";
const DROP_IN: &str = "/etc/systemd/system/haproxy.service.d/zz-reloader.conf";

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn a_running_unit_is_taken_over_and_handed_back() {
    let scene = Scene::boot(Machine::setup(), UNIT);
    refusals(&scene);
    let master = scene.main_pid();
    let load = scene.load();
    let mut idle = scene.idle();

    let plan = takeover(&scene, &["--dry-run"]).expect_status(0);
    for words in [DROP_IN, "KillMode=process", "systemctl restart haproxy.service"] {
        assert!(plan.stdout.contains(words), "{words} is not in\n{}", plan.stdout);
    }
    assert!(!scene.machine.inside(DROP_IN).exists() && scene.main_pid() == master);

    takeover(&scene, &[]).expect_status(0);
    assert!(plan.stdout.contains(&indented(&scene.read(DROP_IN))), "the plan was another:\n{}", plan.stdout);
    assert_ne!(scene.main_pid(), master);
    assert_eq!(scene.serving().to_string(), master);
    scene.assert_status("last adoption proven");
    assert!(takeover(&scene, &[]).expect_status(1).stderr.contains("--undo"));

    steps::rapid_reloads(&scene);
    steps::a_failing_configuration(&scene);
    steps::the_daemon_is_restarted(&scene);
    steps::the_daemon_is_killed(&scene);
    steps::the_unit_is_stopped(&scene);

    scene.machine.write("/etc/haproxy/haproxy.cfg", config().section("frobnicate\n"));
    assert!(takeover(&scene, &["--undo"]).expect_status(1).stderr.contains("mend that first"));
    assert!(scene.machine.inside(DROP_IN).exists());
    scene.machine.write("/etc/haproxy/haproxy.cfg", config());
    let before = scene.main_pid();
    let undone = takeover(&scene, &["--undo"]).expect_status(0);
    assert!(scene.machine.run(&["kill", "-0", &before]).status != 0, "the daemon was to end");
    assert!(!undone.stderr.contains("bound anew"), "{}", undone.stderr);
    assert!(!scene.machine.inside(DROP_IN).exists());
    let unit = scene.machine.unit(UNIT);
    assert_eq!((unit.get("KillMode"), unit.get("NFileDescriptorStore")), ("mixed", "0"));
    let words = scene.read(&format!("/proc/{}/cmdline", scene.main_pid()));
    assert!(words.starts_with("/usr/sbin/haproxy\0-Ws\0"), "{words:?}");
    load.until_further(500);
    // HAProxy serves, and nobody beside it does.
    assert!(scene.listens(&scene.main_pid()));
    until(LIMIT, "the daemon's generation to stop listening", || {
        let generations = scene.machine.run(&["pgrep", "-f", "reloader/generation-.*cfg"]).stdout;
        !generations.lines().any(|generation| scene.listens(generation))
    });
    // HAProxy's own reload works as it did.
    scene.reload();
    load.until_further(500);
    assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());
    let outcomes = load.stop();
    println!("{outcomes}");
    outcomes.assert_lossless();

    let load = scene.load();
    is_gone_through_with(&scene);
    scene.reload();
    assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());
    steps::haproxy_is_killed(&scene);
    steps::both_are_killed(&scene);
    // Those of earlier generations have not been touched.
    assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());
    load.until_further(500);
    let outcomes = load.stop();
    println!("with HAProxy killed: {outcomes}");
    let lost = outcomes.summary();
    assert_eq!((lost.refused, lost.timeout), (0, 0), "{outcomes}");
}

/// The terminal goes, and somebody has no patience, in the moment in which a stop of the unit would end nobody.
fn is_gone_through_with(scene: &Scene) {
    let handover = "/run/systemd/system/haproxy.service.d/zzz-reloader-handover.conf";
    let halfway = format!(
        "reloader takeover & until [ -e {handover} ]; do kill -0 $! || exit; done; kill -HUP $! && kill -TERM $! && wait $!"
    );
    scene.machine.run(&["sh", "-c", &halfway]).expect_status(0);
    assert!(!scene.machine.inside(handover).exists() && scene.machine.inside(DROP_IN).exists());
    scene.assert_status("last adoption proven");
}

/// A daemon that cannot start: the unit is put back, and HAProxy is its main process again.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn a_takeover_that_fails_leaves_everything_as_it_was() {
    let scene = Scene::boot(Machine::setup().file("/var/lib/reloader", "in the way of state-dir"), UNIT);
    let master = scene.main_pid();
    let load = scene.load();
    let mut idle = scene.idle();
    let failed = takeover(&scene, &[]).expect_status(1);
    assert!(failed.stderr.contains("is as it was before"), "{}", failed.stderr);
    assert_as_before(&scene, &master);
    assert!(!scene.machine.inside("/etc/systemd/system/haproxy.service.d").exists());

    // A daemon that runs, and could not prove the first reload.
    std::fs::remove_file(scene.machine.inside("/var/lib/reloader")).unwrap();
    let filter = "[Service]\nSystemCallFilter=~pidfd_getfd\nSystemCallErrorNumber=EPERM\n";
    scene.machine.write("/etc/systemd/system/haproxy.service.d/filter.conf", filter);
    scene.machine.systemctl(&["daemon-reload"]);
    let failed = takeover(&scene, &[]).expect_status(1);
    assert!(failed.stderr.contains("could not be taken into custody"), "{}", failed.stderr);
    assert!(failed.stderr.contains("is as it was before"), "{}", failed.stderr);
    assert_as_before(&scene, &master);
    assert!(scene.machine.pids_of("reloader").is_empty());
    load.until_further(300);
    assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());
    load.stop().assert_lossless();
    scene.reload();
    assert_eq!(scene.main_pid(), master, "the master reloads itself");
}

/// systemd would take O_NONBLOCK from the sockets that HAProxy serves on, when it passes them to the daemon.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn a_unit_with_a_socket_unit_is_refused_and_not_touched() {
    let scene = Scene::boot(Machine::setup(), UNIT);
    let socket = "[Socket]\nListenStream=127.0.0.1:8002\n";
    scene.machine.write("/etc/systemd/system/haproxy.socket", socket);
    scene.machine.write("/etc/haproxy/haproxy.cfg", config().frontend("passed", &["fd@3"]));
    scene.machine.systemctl(&["daemon-reload"]);
    scene.machine.systemctl(&["stop", UNIT]);
    scene.machine.systemctl(&["start", "haproxy.socket", UNIT]);
    let master = scene.main_pid();
    let passed = || Load::to(["127.0.0.1:8002"]).connections(10).run().assert_lossless();
    passed();
    let refused = takeover(&scene, &[]).expect_status(1);
    assert!(refused.stderr.contains("haproxy.socket passes it its sockets"), "{}", refused.stderr);
    assert_as_before(&scene, &master);
    assert!(!scene.machine.inside(DROP_IN).exists());
    passed();
}

#[track_caller]
fn assert_as_before(scene: &Scene, master: &str) {
    assert_eq!(scene.main_pid(), master);
    let unit = scene.machine.unit(UNIT);
    let state = ["ActiveState", "SubState", "Type", "KillMode", "Restart"].map(|property| unit.get(property));
    assert_eq!(state, ["active", "running", "notify", "mixed", "always"]);
}

/// Each with a sentence, and nothing changed.
fn refusals(scene: &Scene) {
    let says = |words: &[&str], status: i32, sentence: &str| {
        let refused = takeover(scene, words).expect_status(status);
        assert!(refused.stderr.contains(sentence), "{sentence} is not in\n{}", refused.stderr);
    };
    says(&["no-such.service"], 1, "knows no unit");
    says(&["systemd-journald"], 1, "is no HAProxy");
    says(&["systemd-fsck-root"], 1, "does not run");
    says(&["--undo"], 1, "was not taken over");
    scene.machine.write("/etc/systemd/system/haproxy.service.d/user.conf", "[Service]\nExecStop=/bin/true\n");
    scene.machine.systemctl(&["daemon-reload"]);
    says(&[], 1, "ExecStop=");
    std::fs::remove_dir_all(scene.machine.inside("/etc/systemd/system/haproxy.service.d")).unwrap();
    scene.machine.systemctl(&["daemon-reload"]);
    scene.machine.write("/etc/reloader/reloader.toml", "[haproxy]\nconfig = [\"/etc/other.cfg\"]\n");
    says(&[], 78, "says something else than the unit");
    std::fs::remove_dir_all(scene.machine.inside("/etc/reloader")).unwrap();
}

fn takeover(scene: &Scene, words: &[&str]) -> Answer {
    scene.machine.reloader(&[&["takeover"], words].concat())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("          {line}\n")).collect()
}

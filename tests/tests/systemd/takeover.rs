//! Tests `reloader takeover`: under load, Debian's own haproxy.service becomes a unit of reloader, and is handed back.

use reloader_tests::booted::Machine;
use reloader_tests::load::{Load, Running};
use reloader_tests::poll::until;
use reloader_tests::rig::Answer;

use super::scene::{CONNECTIONS, DROP_IN, LIMIT, Scene, UNIT, config};
use super::steps;

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn running_unit_is_taken_over_and_handed_back() {
    let scene = Scene::boot(Machine::setup(), UNIT);
    refusals(&scene);
    let master = scene.main_pid();
    reload_is_waited_for(&scene, &master);
    let load = scene.load();
    let mut idle = scene.idle();

    the_unit_is_taken_over(&scene, &master);

    steps::rapid_reloads(&scene);
    steps::a_failing_configuration(&scene);
    steps::the_daemon_is_restarted(&scene);
    steps::the_daemon_is_killed(&scene);
    steps::the_unit_is_stopped(&scene);

    the_unit_is_handed_back(&scene, &load);
    // HAProxy's own reload works as it did.
    scene.reload();
    load.until_further(500);
    assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());
    let outcomes = load.stop();
    println!("{outcomes}");
    outcomes.assert_lossless();

    let load = scene.load();
    takeover_completes_despite_signals(&scene);
    scene.reload();
    assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());
    steps::haproxy_is_killed(&scene);
    steps::both_are_killed(&scene);
    // The connections of earlier generations are untouched.
    assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());
    load.until_further(500);
    let outcomes = load.stop();
    println!("with HAProxy killed: {outcomes}");
    let lost = outcomes.summary();
    assert_eq!((lost.refused, lost.timeout), (0, 0), "{outcomes}");
}

/// HAProxy announces a reload after `systemctl reload` has returned: the takeover waits until the unit is active again.
fn reload_is_waited_for(scene: &Scene, master: &str) {
    let drop_in = "[Service]\nNotifyAccess=all\nExecReload=\nExecReload=systemd-notify RELOADING=1\n";
    let file = "/etc/systemd/system/haproxy.service.d/slow.conf";
    scene.machine.write(file, drop_in);
    scene.machine.systemctl(&["daemon-reload"]);
    scene.machine.systemctl(&["reload", "--no-block", UNIT]);
    until(LIMIT, "the unit to announce its reload", || scene.property("ActiveState") == "reloading");
    // HAProxy says that it is ready again when the takeover has seen the state twenty times and still runs.
    let wait = format!(
        "reloader takeover --dry-run & for i in $(seq 20); do systemctl show {UNIT} >/dev/null; done; \
         kill -0 $! && kill -USR2 {master} && wait $!"
    );
    scene.machine.run(&["sh", "-c", &wait]).expect_status(0);
    std::fs::remove_dir_all(scene.machine.inside("/etc/systemd/system/haproxy.service.d")).unwrap();
    scene.machine.systemctl(&["daemon-reload"]);
}

/// A dry run prints the plan and changes nothing. The takeover does what the plan says, and cannot be repeated.
fn the_unit_is_taken_over(scene: &Scene, master: &str) {
    let plan = takeover(scene, &["--dry-run"]).expect_status(0);
    for words in [DROP_IN, "KillMode=process", "systemctl restart haproxy.service"] {
        assert!(plan.stdout.contains(words), "{words} is not in\n{}", plan.stdout);
    }
    assert!(!scene.machine.inside(DROP_IN).exists() && scene.main_pid() == master);

    takeover(scene, &[]).expect_status(0);
    assert!(
        plan.stdout.contains(&indented(&scene.read(DROP_IN))),
        "the drop-in differs from the plan:\n{}",
        plan.stdout
    );
    assert_ne!(scene.main_pid(), master);
    assert_eq!(scene.serving().to_string(), master);
    scene.assert_status("last adoption proven");
    assert!(takeover(scene, &[]).expect_status(1).stderr.contains("taken over already; `--undo`"));
    let added = "/etc/systemd/system/haproxy.service.d/added.conf";
    scene.machine.write(added, "[Service]\nExecStartPre=/bin/true\n");
    scene.machine.systemctl(&["daemon-reload"]);
    assert!(takeover(scene, &["--dry-run"]).expect_status(1).stderr.contains("lines of the unit"));
    std::fs::remove_file(scene.machine.inside(added)).unwrap();
    scene.machine.systemctl(&["daemon-reload"]);
}

/// While HAProxy refuses its configuration, the unit is not handed back. After that it is handed back without a gap in
/// service.
fn the_unit_is_handed_back(scene: &Scene, load: &Running) {
    scene.machine.write("/etc/haproxy/haproxy.cfg", config().section("frobnicate\n"));
    assert!(takeover(scene, &["--undo"]).expect_status(1).stderr.contains("fix that first"));
    assert!(scene.machine.inside(DROP_IN).exists());
    scene.machine.write("/etc/haproxy/haproxy.cfg", config());
    let before = scene.main_pid();
    let undone = takeover(scene, &["--undo"]).expect_status(0);
    assert!(scene.machine.run(&["kill", "-0", &before]).status != 0, "the daemon still runs");
    assert!(!undone.stderr.contains("bound again"), "{}", undone.stderr);
    assert!(!scene.machine.inside(DROP_IN).exists());
    let unit = scene.machine.unit(UNIT);
    assert_eq!((unit.get("KillMode"), unit.get("NFileDescriptorStore")), ("mixed", "0"));
    let words = scene.read(&format!("/proc/{}/cmdline", scene.main_pid()));
    assert!(words.starts_with("/usr/sbin/haproxy\0-Ws\0"), "{words:?}");
    load.until_further(500);
    // HAProxy alone serves.
    assert!(scene.listens(&scene.main_pid()));
    until(LIMIT, "the daemon's generation to stop listening", || {
        let generations = scene.machine.run(&["pgrep", "-f", "reloader/generation-.*cfg"]).stdout;
        !generations.lines().any(|generation| scene.listens(generation))
    });
}

/// SIGHUP and SIGTERM arrive while `takeover` waits for the unit's restart: it completes all the same. While the handover drop-in exists, a
/// stop of the unit ends no process.
fn takeover_completes_despite_signals(scene: &Scene) {
    let handover = "/run/systemd/system/haproxy.service.d/zzz-reloader-handover.conf";
    let halfway = format!(
        "reloader takeover & until [ -e {handover} ]; do kill -0 $! || exit; done; kill -HUP $! && kill -TERM $! && wait $!"
    );
    scene.machine.run(&["sh", "-c", &halfway]).expect_status(0);
    assert!(!scene.machine.inside(handover).exists() && scene.machine.inside(DROP_IN).exists());
    scene.assert_status("last adoption proven");
}

/// The daemon cannot start, or could not prove the first reload: the unit is restored, and HAProxy is its main process again.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn failed_takeover_restores_the_unit() {
    let scene = Scene::boot(Machine::setup().file("/var/lib/reloader", "in the way of state-dir"), UNIT);
    let master = scene.main_pid();
    let load = scene.load();
    let mut idle = scene.idle();
    let failed = takeover(&scene, &[]).expect_status(1);
    assert!(failed.stderr.contains("is as it was before"), "{}", failed.stderr);
    assert_as_before(&scene, &master);
    assert!(!scene.machine.inside("/etc/systemd/system/haproxy.service.d").exists());

    // A daemon that starts, but cannot take the sockets into custody. The takeover allows its calls, and a later file denies one again.
    std::fs::remove_file(scene.machine.inside("/var/lib/reloader")).unwrap();
    for (name, denied) in [("filter", "reboot"), ("zzz-filter", "pidfd_getfd")] {
        let filter = format!("[Service]\nSystemCallFilter=~{denied}\nSystemCallErrorNumber=EPERM\n");
        scene.machine.write(&format!("/etc/systemd/system/haproxy.service.d/{name}.conf"), filter);
    }
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

/// systemd would clear O_NONBLOCK of the sockets that HAProxy serves on, when it passes them to the daemon.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn unit_with_a_socket_unit_is_refused_and_not_touched() {
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
    assert!(refused.stderr.contains("haproxy.socket passes sockets to it"), "{}", refused.stderr);
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

/// Takeovers that are refused with a sentence and change nothing.
fn refusals(scene: &Scene) {
    let is_refused = |words: &[&str], status: i32, sentence: &str| {
        let refused = takeover(scene, words).expect_status(status);
        assert!(refused.stderr.contains(sentence), "{sentence} is not in\n{}", refused.stderr);
    };
    is_refused(&["no-such.service"], 1, "knows no unit");
    is_refused(&["systemd-journald"], 1, "is not HAProxy");
    is_refused(&["systemd-fsck-root"], 1, "does not run");
    is_refused(&["--undo"], 1, "was not taken over");
    scene.machine.write("/etc/systemd/system/haproxy.service.d/user.conf", "[Service]\nExecStop=/bin/true\n");
    scene.machine.systemctl(&["daemon-reload"]);
    is_refused(&[], 1, "ExecStop=");
    std::fs::remove_dir_all(scene.machine.inside("/etc/systemd/system/haproxy.service.d")).unwrap();
    scene.machine.systemctl(&["daemon-reload"]);
    scene.machine.write("/etc/reloader/reloader.toml", "[haproxy]\nconfig = [\"/etc/other.cfg\"]\n");
    is_refused(&[], 78, "disagrees with the unit");
    std::fs::remove_dir_all(scene.machine.inside("/etc/reloader")).unwrap();
}

fn takeover(scene: &Scene, words: &[&str]) -> Answer {
    scene.machine.reloader(&[&["takeover"], words].concat())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("          {line}\n")).collect()
}

/// What the operator has added to the unit stays in force: commands before a start and at a reload, the pid file, and the signals of recipes.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn own_commands_and_the_pid_file_are_carried() {
    const OWN: &str = "[Service]\nExecStartPre=/bin/sh -c 'echo start >> /run/own'\nExecReload=\n\
        ExecReload=/bin/sh -c 'echo before >> /run/own'\nExecReload=/usr/sbin/haproxy -Ws -f $CONFIG -c $EXTRAOPTS\n\
        ExecReload=/bin/kill -USR2 $MAINPID\nExecReload=/bin/sh -c 'echo after >> /run/own'\n";
    let setup = Machine::setup().file("/etc/systemd/system/haproxy.service.d/own.conf", OWN);
    let scene = Scene::boot(setup, UNIT);
    let lines = || scene.read("/run/own").lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(), ["start"]);
    let load = scene.load();
    let plan = takeover(&scene, &["--dry-run", "--json"]).expect_status(0);
    let fates = plan.at("/settings").to_string();
    for (setting, fate) in [("echo before", "carried"), ("echo start", "carried"), ("-p /run/haproxy.pid", "carried")] {
        let rows = plan.at("/settings").as_array().unwrap();
        let row = rows.iter().find(|row| row["setting"].as_str().unwrap().contains(setting)).expect(setting);
        assert_eq!(row["fate"], fate, "{fates}");
    }
    takeover(&scene, &[]).expect_status(0);
    assert_eq!(lines(), ["start", "start"], "each start of the daemon");
    for _ in 0..3 {
        let serving = scene.serving();
        scene.reload();
        assert_ne!(scene.serving(), serving);
    }
    assert_eq!(lines()[2..], ["before", "after"].repeat(3));

    // The environment file is read at each reload.
    let words = || scene.read(&format!("/proc/{}/cmdline", scene.serving())).replace('\0', " ");
    assert!(!words().contains("-m 300"), "{}", words());
    scene.machine.write("/etc/default/haproxy", "EXTRAOPTS=\"-S /run/haproxy-master.sock -m 300\"\n");
    scene.reload();
    assert!(words().contains("-m 300"), "{}", words());
    scene.machine.write("/etc/default/haproxy", "EXTRAOPTS=\"--frobnicate\"\n");
    scene.reload_fails();
    scene.machine.write("/etc/default/haproxy", "");
    // A shell has not the environment of the unit.
    scene.machine.reloader(&["check"]).expect_status(0);
    scene.machine.reloader(&["probe"]).expect_status(0);

    // The hooks of recipes.
    let daemon = scene.main_pid();
    assert_eq!(scene.read("/run/haproxy.pid").trim(), daemon);
    for hook in ["kill -USR2 $(cat /run/haproxy.pid)", "systemctl kill -s USR2 haproxy.service"] {
        let serving = scene.serving();
        scene.machine.run(&["sh", "-c", hook]).expect_status(0);
        until(LIMIT, "a reload by the hook", || scene.serving() != serving);
        assert_eq!(scene.main_pid(), daemon, "{hook}");
    }
    takeover(&scene, &["--undo"]).expect_status(0);
    assert_eq!(scene.read("/run/haproxy.pid").trim(), scene.main_pid());
    scene.reload();
    assert_eq!(lines().last().map(String::as_str), Some("after"));
    load.until_further(300);
    load.stop().assert_lossless();
}

//! Tests the life of a machine with the init script: Debian's HAProxy is adopted and reloaded with proof, and survives failures.

use std::net::TcpListener;

use reloader_tests::booted::{PROGRAM, Setup};
use reloader_tests::load::Span;
use reloader_tests::poll::until;
use reloader_tests::sockets::{refuses, until_refused};
use reloader_tests::tier;
use serde_json::Value;

use super::scene::{CONFIG, CONNECTIONS, LIMIT, SCRIPT, SETTINGS, Scene, WEB, config, mode};

/// A program that runs reloader, but whose daemon ends with status 101. At SIGTERM the trap interrupts the first
/// `wait`, and the second one waits for the daemon.
const ENDS_WITH_101: &str = r#"#!/bin/sh
case " $* " in *" daemon "*) ;; *) exec reloader "$@" ;; esac
trap 'kill $!' TERM
reloader "$@" &
wait $!
wait $!
exit 101
"#;

fn reload_count() -> usize {
    tier::rounds(20)
}

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn script_reloads_restarts_and_survives_kills() {
    let script = include_str!("../../../packaging/sysv/reloader");
    let scene = Scene::boot(Setup::default().program(SCRIPT, script));
    let load = scene.load();
    let mut windows = Vec::new();
    let mut step = |name: &str, run: fn(&Scene)| {
        let span = Span::begin(name);
        run(&scene);
        windows.push(span.end());
    };
    step("adoption", the_running_haproxy_is_adopted);
    step("reloads", reloads);
    let mut idle = scene.idle();
    step("a failing configuration", a_failing_configuration);
    step("a restart", the_daemon_is_restarted);
    step("kill -9 of the daemon", the_daemon_is_killed);
    step("kill -9 of daemon and keeper", the_daemon_and_its_keeper_are_killed);
    step("a daemon that hangs", the_daemon_hangs);
    step("a daemon that fails", the_daemon_fails);
    step("other users", other_users_use_the_script);
    step("two actions at once", two_actions_run_at_once);
    step("stop", the_daemon_is_stopped);
    assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());
    load.until_further(200);
    let outcomes = load.stop();
    for (step, summary) in outcomes.by_window(&windows) {
        println!("{step}: {summary}");
    }
    outcomes.assert_lossless();

    drop(idle);
    haproxy_is_killed(&scene);
    nothing_can_be_served(&scene);
}

/// Debian's script has started HAProxy at boot.
fn the_running_haproxy_is_adopted(scene: &Scene) {
    let answer = scene.script("status", 3);
    assert!(answer.stdout.contains("no daemon answers"), "{}", answer.stdout);
    scene.script("reload", 7);
    scene.machine.write("/etc/reloader/reloader.toml", mode().0);
    scene.machine.run(&["update-rc.d", "haproxy", "disable"]).expect_status(0);
    scene.machine.run(&["update-rc.d", "reloader", "defaults"]).expect_status(0);
    scene.machine.run(&["sh", "-c", "ls /etc/rc2.d/S*reloader /etc/rc0.d/K*reloader"]).expect_status(0);
    scene.script("start", 0);
    assert_eq!(scene.serving().to_string(), scene.read("/run/haproxy.pid").trim());
    let receipt = &scene.receipts()[0];
    assert_eq!((&receipt["kind"], &receipt["result"]), (&"adopt".into(), &"proven".into()), "{receipt:#}");
    let daemon = scene.assert_runs();
    assert!(scene.script("start", 0).stdout.contains("runs already"));
    assert_eq!(scene.assert_runs(), daemon);
}

fn reloads(scene: &Scene) {
    let before = scene.receipts().len();
    for number in 0..reload_count() {
        scene.script(["reload", "force-reload"][number % 2], 0);
    }
    let receipts = scene.receipts();
    let new = &receipts[..receipts.len() - before];
    assert_eq!(new.len(), reload_count());
    for receipt in new {
        assert_eq!(receipt["result"], "proven", "{receipt:#}");
        let listeners = receipt["listeners"].as_array().unwrap();
        let web = listeners.iter().find(|listener| listener["address"] == WEB).unwrap();
        assert_eq!(web["rung"], mode().1, "{receipt:#}");
    }
    scene.assert_runs();
}

fn a_failing_configuration(scene: &Scene) {
    let serving = scene.serving();
    // The check refuses the configuration, so nothing is reloaded.
    let before = scene.receipts().len();
    scene.machine.write(CONFIG, config().section("frobnicate\n"));
    let refused = scene.script("reload", 6);
    assert!(refused.stderr.contains("frobnicate"), "{}", refused.stderr);
    assert_eq!(scene.receipts().len(), before);
    let answer = scene.script("status", 0).stdout;
    assert!(answer.contains("was not begun: HAProxy refuses"), "{answer}");
    // The check accepts the configuration, but the new generation cannot bind.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    scene.machine.write(CONFIG, config().frontend("taken", &[&taken.local_addr().unwrap().to_string()]));
    scene.script("reload", 1);
    assert_eq!(scene.receipts()[0]["result"], "failed");
    scene.assert_runs();
    assert_eq!(scene.serving(), serving);
    scene.machine.write(CONFIG, config());
    scene.script("reload", 0);
}

/// The file of the running program is replaced before the restart, as in an upgrade.
fn the_daemon_is_restarted(scene: &Scene) {
    let (serving, daemon) = (scene.serving(), scene.assert_runs());
    let replace = format!("cp {PROGRAM} {PROGRAM}.new && mv {PROGRAM}.new {PROGRAM}");
    scene.machine.run(&["sh", "-c", &replace]).expect_status(0);
    scene.script("restart", 0);
    assert_ne!(scene.assert_runs(), daemon);
    assert_eq!(scene.serving(), serving);
    scene.script("reload", 0);
}

fn the_daemon_is_killed(scene: &Scene) {
    let (serving, daemon) = (scene.serving(), scene.assert_runs());
    scene.signal("KILL", &[&daemon]);
    until(LIMIT, "the keeper to start another", || {
        scene.daemon() != daemon && scene.machine.run(&[SCRIPT, "status"]).status == 0
    });
    scene.assert_runs();
    assert_eq!(scene.serving(), serving);
    scene.script("reload", 0);
}

fn the_daemon_and_its_keeper_are_killed(scene: &Scene) {
    let (serving, daemon) = (scene.serving(), scene.assert_runs());
    scene.signal("KILL", &[&scene.keeper()]);
    assert!(scene.script("status", 0).stdout.contains("is not restarted"));
    scene.script("start", 0);
    assert_ne!(scene.assert_runs(), daemon);
    scene.signal("KILL", &[&scene.keeper(), &scene.daemon()]);
    // The daemon is dead, and its pid file exists.
    let answer = scene.script("status", 1);
    let serves = format!("process {serving} ");
    assert!(answer.stdout.contains(&serves) && answer.stdout.contains("serves on"), "{}", answer.stdout);
    scene.script("start", 0);
    assert_eq!(scene.serving(), serving);
    scene.script("reload", 0);
}

/// The daemon runs but does not answer, which is status 4 (unknown) in LSB. It does not end at SIGTERM either.
fn the_daemon_hangs(scene: &Scene) {
    let (serving, daemon) = (scene.serving(), scene.assert_runs());
    scene.signal("STOP", &[&daemon]);
    let answer = scene.script("status", 4);
    assert!(answer.stdout.contains(&format!("process {daemon}")), "{}", answer.stdout);
    scene.machine.write(SETTINGS, "STOP_LIMIT=2\n");
    let answer = scene.script("restart", 0);
    assert!(answer.stderr.contains(&format!("process {daemon}")), "{}", answer.stderr);
    assert_ne!(scene.assert_runs(), daemon);
    assert_eq!(scene.serving(), serving);
    scene.machine.write(SETTINGS, "");
    // The new daemon has a keeper, which starts another one after a kill.
    the_daemon_is_killed(scene);
}

/// The daemon exits as after a panic. Once it has served, it is started again whatever its exit status was.
fn the_daemon_fails(scene: &Scene) {
    let serving = scene.serving();
    let program = format!("{PROGRAM}-101");
    scene.machine.write(&program, ENDS_WITH_101);
    scene.machine.run(&["chmod", "755", &program]).expect_status(0);
    scene.machine.write(SETTINGS, format!("RELOADER={program}\n"));
    scene.script("restart", 0);
    for _ in 0..2 {
        let daemon = scene.assert_runs();
        scene.signal("TERM", &[&daemon]);
        until(LIMIT, "the keeper to start another", || {
            scene.daemon() != daemon && scene.machine.run(&[SCRIPT, "status"]).status == 0
        });
    }
    assert_eq!(scene.serving(), serving);
    let log = scene.read("/var/log/reloader.log");
    assert_eq!(log.matches("ended with status 101").count(), 2, "{log}");
    scene.machine.write(SETTINGS, "");
    scene.script("restart", 0);
}

/// A user without access to the daemon gets status 4, not "no daemon runs".
fn other_users_use_the_script(scene: &Scene) {
    let ask = |group: &str, action: &str| {
        let words = ["setpriv", "--reuid=nobody", &format!("--regid={group}"), "--clear-groups", SCRIPT, action];
        scene.machine.run(&words)
    };
    let answer = ask("nogroup", "status").expect_status(4);
    assert!(!answer.stdout.contains("serving"), "{}", answer.stdout);
    ask("nogroup", "reload").expect_status(4);
    ask("nogroup", "restart").expect_status(4);
    // The group root may use the control socket.
    let answer = ask("root", "status").expect_status(0);
    assert!(answer.stdout.contains("serving") && !answer.stdout.contains("not restarted"), "{}", answer.stdout);
}

/// Two `start`s at once, and a `stop` beside a `start`: they run one after the other, in either order.
fn two_actions_run_at_once(scene: &Scene) {
    let serving = scene.serving();
    let run = |actions: &str| scene.machine.run(&["sh", "-c", actions]).expect_status(0);
    let daemons =
        || scene.machine.run(&["sh", "-c", "grep -lsxz 'daemo[n]' /proc/[0-9]*/cmdline"]).stdout.lines().count();
    for _ in 0..3 {
        run(&format!("{SCRIPT} stop; {SCRIPT} start & {SCRIPT} start; wait"));
        assert_eq!(daemons(), 1);
        scene.assert_runs();
        run(&format!("{SCRIPT} stop; {SCRIPT} start & {SCRIPT} stop; wait"));
        let status = scene.machine.run(&[SCRIPT, "status"]).status;
        assert!(matches!((daemons(), status), (1, 0) | (0, 3)), "{} daemons, status {status}", daemons());
    }
    scene.script("start", 0);
    scene.assert_runs();
    assert_eq!(scene.serving(), serving);
    // The keeper inherits neither a descriptor of the caller nor the lock.
    run(&format!("exec 3>/dev/null; {SCRIPT} restart"));
    let open = scene.machine.run(&["ls", &format!("/proc/{}/fd", scene.keeper())]).expect_status(0).stdout;
    assert!(!open.lines().any(|number| ["3", "9"].contains(&number)), "{open}");
}

/// HAProxy keeps serving.
fn the_daemon_is_stopped(scene: &Scene) {
    let serving = scene.serving();
    let answer = scene.script("stop", 0);
    assert!(answer.stdout.contains(&format!("process {serving} ")), "{}", answer.stdout);
    scene.script("stop", 0);
    scene.script("status", 3);
    scene.script("try-restart", 0);
    scene.script("status", 3);
    assert!(!refuses(WEB));
    // The pid in the file now belongs to another process.
    scene.machine.write("/run/reloader.daemon.pid", "1\n1\n");
    scene.script("status", 1);
    scene.script("stop", 0);
    scene.script("status", 3);
    scene.script("start", 0);
    assert_eq!(scene.serving(), serving);
    scene.assert_runs();
}

/// With `auto` clients wait. With `kernel-fallback` no socket would be in custody, and the port would be refused.
fn haproxy_is_killed(scene: &Scene) {
    scene.machine.write("/etc/reloader/reloader.toml", "");
    scene.script("restart", 0);
    // A HAProxy that was started in the other mode passes its sockets too.
    scene.script("reload", 0);
    let load = scene.load();
    let before = scene.serving();
    scene.signal("KILL", &[&before.to_string()]);
    until(LIMIT, "another generation", || ![&Value::Null, &before].contains(&&scene.serving()));
    scene.assert_runs();
    load.until_further(200);
    let outcomes = load.stop();
    println!("with HAProxy killed: {outcomes}");
    let lost = outcomes.summary();
    // Connections inside a killed HAProxy are lost with it.
    assert_eq!((lost.refused, lost.timeout), (0, 0), "{outcomes}");
}

fn nothing_can_be_served(scene: &Scene) {
    let serving = scene.serving();
    scene.machine.write(CONFIG, "frobnicate\n");
    std::fs::remove_dir_all(scene.machine.inside("/var/lib/reloader/last-known-good")).unwrap();
    scene.signal("KILL", &[&serving.to_string()]);
    // The daemon runs and nothing is served: neither 0 nor "not running" would be true.
    until(LIMIT, "the script to report it", || scene.machine.run(&[SCRIPT, "status"]).status == 150);
    until_refused(WEB);
    scene.machine.reloader(&["stop"]).expect_status(0);
    until(LIMIT, "the keeper to end", || scene.machine.run(&[SCRIPT, "status"]).status == 3);
    let failed = scene.script("start", 1);
    assert!(failed.stderr.contains("frobnicate"), "{}", failed.stderr);
    scene.script("status", 3);
    scene.script("frobnicate", 2);
}

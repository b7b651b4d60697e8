//! From a machine with Debian's HAProxy to reloads that are proven, and what may befall it then.

use std::net::TcpListener;

use reloader_tests::booted::{PROGRAM, Setup};
use reloader_tests::load::Span;
use reloader_tests::poll::until;
use reloader_tests::sockets::{refuses, until_refused};
use reloader_tests::tier;
use serde_json::Value;

use super::scene::{CONFIG, CONNECTIONS, LIMIT, SCRIPT, SETTINGS, Scene, WEB, config, mode};

/// The program, but for the status that its daemon ends with. The trap ends the first `wait`.
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
fn the_script_reloads_restarts_and_survives_kills() {
    let script = include_str!("../../../packaging/sysv/reloader");
    let scene = Scene::boot(Setup::default().program(SCRIPT, script));
    let load = scene.load();
    let mut windows = Vec::new();
    let mut step = |name: &str, run: fn(&Scene)| {
        let span = Span::begin(name);
        run(&scene);
        windows.push(span.end());
    };
    step("adoption", what_runs_is_adopted);
    step("reloads", reloads);
    let mut idle = scene.idle();
    step("a failing configuration", a_failing_configuration);
    step("a restart", the_daemon_is_restarted);
    step("kill -9 of the daemon", the_daemon_is_killed);
    step("kill -9 of daemon and keeper", the_daemon_and_its_keeper_are_killed);
    step("a daemon that hangs", the_daemon_hangs);
    step("a daemon that fails", the_daemon_fails);
    step("other users", others_ask);
    step("two actions at once", actions_meet);
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

/// Debian's script has started it with the machine.
fn what_runs_is_adopted(scene: &Scene) {
    let said = scene.script("status", 3);
    assert!(said.stdout.contains("no daemon answers"), "{}", said.stdout);
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
    // The check refuses it: nothing is reloaded at all.
    let before = scene.receipts().len();
    scene.machine.write(CONFIG, config().section("frobnicate\n"));
    let refused = scene.script("reload", 6);
    assert!(refused.stderr.contains("frobnicate"), "{}", refused.stderr);
    assert_eq!(scene.receipts().len(), before);
    let said = scene.script("status", 0).stdout;
    assert!(said.contains("was not begun: HAProxy refuses"), "{said}");
    // The check finds nothing wrong, the new generation cannot bind.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    scene.machine.write(CONFIG, config().frontend("taken", &[&taken.local_addr().unwrap().to_string()]));
    scene.script("reload", 1);
    assert_eq!(scene.receipts()[0]["result"], "failed");
    scene.assert_runs();
    assert_eq!(scene.serving(), serving);
    scene.machine.write(CONFIG, config());
    scene.script("reload", 0);
}

/// As by an upgrade: the program that runs is no longer there.
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
    // Dead, and its pid file is there.
    let said = scene.script("status", 1);
    let serves = format!("process {serving} ");
    assert!(said.stdout.contains(&serves) && said.stdout.contains("serves on"), "{}", said.stdout);
    scene.script("start", 0);
    assert_eq!(scene.serving(), serving);
    scene.script("reload", 0);
}

/// It runs, and cannot be asked: LSB calls that unknown. Nor does it end when it is told to.
fn the_daemon_hangs(scene: &Scene) {
    let (serving, daemon) = (scene.serving(), scene.assert_runs());
    scene.signal("STOP", &[&daemon]);
    let said = scene.script("status", 4);
    assert!(said.stdout.contains(&format!("process {daemon}")), "{}", said.stdout);
    scene.machine.write(SETTINGS, "STOP_LIMIT=2\n");
    let said = scene.script("restart", 0);
    assert!(said.stderr.contains(&format!("process {daemon}")), "{}", said.stderr);
    assert_ne!(scene.assert_runs(), daemon);
    assert_eq!(scene.serving(), serving);
    scene.machine.write(SETTINGS, "");
    // The new one has a keeper.
    the_daemon_is_killed(scene);
}

/// As by a panic. Once it has served it is started again, whatever its status was.
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

/// Whoever may not ask is not told that none runs.
fn others_ask(scene: &Scene) {
    let ask = |group: &str, action: &str| {
        let words = ["setpriv", "--reuid=nobody", &format!("--regid={group}"), "--clear-groups", SCRIPT, action];
        scene.machine.run(&words)
    };
    let said = ask("nogroup", "status").expect_status(4);
    assert!(!said.stdout.contains("serving"), "{}", said.stdout);
    ask("nogroup", "reload").expect_status(4);
    ask("nogroup", "restart").expect_status(4);
    // Those who may use the control socket.
    let said = ask("root", "status").expect_status(0);
    assert!(said.stdout.contains("serving") && !said.stdout.contains("not restarted"), "{}", said.stdout);
}

/// Two at once, and a `stop` beside a `start`: they take turns, whichever is first.
fn actions_meet(scene: &Scene) {
    let serving = scene.serving();
    let meet = |actions: &str| scene.machine.run(&["sh", "-c", actions]).expect_status(0);
    let daemons =
        || scene.machine.run(&["sh", "-c", "grep -lsxz 'daemo[n]' /proc/[0-9]*/cmdline"]).stdout.lines().count();
    for _ in 0..3 {
        meet(&format!("{SCRIPT} stop; {SCRIPT} start & {SCRIPT} start; wait"));
        assert_eq!(daemons(), 1);
        scene.assert_runs();
        meet(&format!("{SCRIPT} stop; {SCRIPT} start & {SCRIPT} stop; wait"));
        let status = scene.machine.run(&[SCRIPT, "status"]).status;
        assert!(matches!((daemons(), status), (1, 0) | (0, 3)), "{} daemons, status {status}", daemons());
    }
    scene.script("start", 0);
    scene.assert_runs();
    assert_eq!(scene.serving(), serving);
    // Nothing of the caller's stays open, nor the lock.
    meet(&format!("exec 3>/dev/null; {SCRIPT} restart"));
    let open = scene.machine.run(&["ls", &format!("/proc/{}/fd", scene.keeper())]).expect_status(0).stdout;
    assert!(!open.lines().any(|number| ["3", "9"].contains(&number)), "{open}");
}

/// HAProxy serves on.
fn the_daemon_is_stopped(scene: &Scene) {
    let serving = scene.serving();
    let said = scene.script("stop", 0);
    assert!(said.stdout.contains(&format!("process {serving} ")), "{}", said.stdout);
    scene.script("stop", 0);
    scene.script("status", 3);
    scene.script("try-restart", 0);
    scene.script("status", 3);
    assert!(!refuses(WEB));
    // A pid that is another process's by now.
    scene.machine.write("/run/reloader.daemon.pid", "1\n1\n");
    scene.script("status", 1);
    scene.script("stop", 0);
    scene.script("status", 3);
    scene.script("start", 0);
    assert_eq!(scene.serving(), serving);
    scene.assert_runs();
}

/// With `kernel-fallback` nothing would be in custody, and the port would be refused: with `auto` clients wait.
fn haproxy_is_killed(scene: &Scene) {
    scene.machine.write("/etc/reloader/reloader.toml", "");
    scene.script("restart", 0);
    // One that was started in the other mode gives its sockets too.
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
    // What was inside a HAProxy that was killed is lost with it.
    assert_eq!((lost.refused, lost.timeout), (0, 0), "{outcomes}");
}

fn nothing_can_be_served(scene: &Scene) {
    let serving = scene.serving();
    scene.machine.write(CONFIG, "frobnicate\n");
    std::fs::remove_dir_all(scene.machine.inside("/var/lib/reloader/last-known-good")).unwrap();
    scene.signal("KILL", &[&serving.to_string()]);
    // The daemon runs: neither 0 nor "not running" would be the truth.
    until(LIMIT, "the script to say so", || scene.machine.run(&[SCRIPT, "status"]).status == 150);
    until_refused(WEB);
    scene.machine.reloader(&["stop"]).expect_status(0);
    until(LIMIT, "the keeper to end", || scene.machine.run(&[SCRIPT, "status"]).status == 3);
    let failed = scene.script("start", 1);
    assert!(failed.stderr.contains("frobnicate"), "{}", failed.stderr);
    scene.script("status", 3);
    scene.script("frobnicate", 2);
}

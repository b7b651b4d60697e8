//! The daemon comes and goes, and HAProxy stays.

use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::{seen_within, until};
use reloader_tests::receipt::assert_passed;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::listening;

use crate::{LIMIT, Scene, WEB, Way};

#[test]
fn a_daemon_that_starts_first_waits_and_says_so() {
    netns::enter();
    let mut scene = Scene::prepare(&HaproxyBinary::installed(), Way::Cli, Config::web(WEB), "");
    scene.rig.start_daemon();
    let status = scene.rig.status();
    assert!(status.at("/serving").is_null());
    let warnings = status.at("/warnings").to_string();
    assert!(warnings.contains("no HAProxy answers on") && warnings.contains("start its unit"), "{warnings}");
    scene.rig.reload().expect_status(4);
    scene.start_haproxy();
    let worker = scene.master().worker();
    until(LIMIT, "the daemon to find it", || scene.rig.serving() == worker);
    assert_passed(&scene.rig.reload(), 1);
}

#[test]
fn stop_and_restart_leave_haproxy_alone() {
    netns::enter();
    let mut scene = Scene::begin(&HaproxyBinary::installed(), Way::Cli, Config::web(WEB), "");
    let load = Load::to([WEB]).start();
    load.until_started(100);
    scene.rig.reload().expect_status(0);
    let (worker, sockets) = (scene.master().worker().unwrap(), listening(8000));
    scene.rig.terminate_daemon();
    scene.rig.start_daemon();
    let status = scene.rig.status();
    assert_eq!((status.at("/serving/pid"), status.at("/serving/generation")), (&worker.pid.into(), &2.into()));
    scene.rig.kill9_daemon();
    scene.rig.start_daemon();
    assert_eq!(scene.rig.status().at("/serving/generation"), 2);
    load.until_further(100);
    let stopped = scene.rig.run(&["stop"]).expect_status(0);
    assert!(stopped.stderr.contains("serves on"), "{}", stopped.stderr);
    scene.rig.until_daemon_ends();
    load.until_further(100);
    assert_eq!((scene.master().worker(), listening(8000)), (Some(worker), sockets));
    load.stop().assert_lossless();
    let next = scene.master().reload();
    scene.rig.start_daemon();
    let status = scene.rig.status();
    assert_eq!((status.at("/serving/pid"), status.at("/serving/generation")), (&next.pid.into(), &3.into()));
}

#[test]
fn every_command_says_which_mode_it_is() {
    netns::enter();
    let scene = Scene::begin(&HaproxyBinary::installed(), Way::Signal, Config::web(WEB), "");
    let master = format!("its master (process {}) is told to reload by SIGUSR2", scene.master().process.pid);
    let status = scene.rig.run(&["status"]).expect_status(0);
    let probe = scene.rig.run(&["probe"]).expect_status(0);
    let plan = scene.rig.run(&["reload", "--dry-run"]).expect_status(0);
    for said in [&status.stdout, &probe.stdout, &plan.stderr] {
        assert!(said.contains("companion mode") && said.contains(&master), "{said}");
    }
    assert!(plan.stdout.contains("passed") && plan.stdout.contains("by HAProxy itself"), "{}", plan.stdout);
    assert!(scene.rig.run(&["check"]).expect_status(0).stderr.contains("configuration is valid"));
}

#[test]
fn what_has_no_master_is_not_taken_and_that_is_said() {
    netns::enter();
    let scene = Scene::prepare(&HaproxyBinary::installed(), Way::Signal, Config::web(WEB), "");
    let alone = HaproxyBinary::installed().daemonize(&scene.rig.haproxy_cfg(), &[]).unwrap();
    let mut scene = scene;
    scene.rig.start_daemon();
    let warnings = scene.rig.status().at("/warnings").to_string();
    let said = format!("(process {}) has no master", alone.process.pid);
    assert!(warnings.contains(&said) && warnings.contains("-Ws"), "{warnings}");
}

/// With `require = "proven"` it is refused before the master is asked.
#[test]
fn what_cannot_be_proven_is_refused_before_the_master_is_asked() {
    netns::enter();
    let binary = reloader_tests::versions::all().into_iter().min_by_key(|binary| binary.version).unwrap();
    let tables = "[reload]\nrequire = \"proven\"\nstrategy = \"fd-pass\"\n";
    let scene = Scene::begin(&binary, Way::Cli, Config::web(WEB), tables);
    let worker = scene.master().worker();
    let refused = scene.rig.reload().expect_status(1);
    assert!(refused.at("/reason").to_string().contains("expose-fd listeners"), "{}", refused.stdout);
    assert!(!seen_within(Duration::from_millis(300), || scene.master().worker() != worker), "the master was asked");
}

#[test]
fn keys_that_do_not_go_together_are_refused_in_a_sentence() {
    netns::enter();
    let refused = |lines: &str, tables: &str| {
        let rig = Rig::with(&Config::web(WEB)).haproxy_line(lines).tables(tables).prepare();
        rig.run(&["daemon"]).expect_status(78).stderr
    };
    assert!(refused("master-cli = \"/run/m.sock\"", "").contains("set mode = \"companion\" as well"));
    let cut = refused("mode = \"companion\"", "[reload]\nhard-stop-after = \"1h\"");
    assert!(cut.contains("hard-stop-after") && cut.contains("global section"), "{cut}");
}

/// A master CLI that is not there: nothing has happened, and the path is named.
#[test]
fn a_master_cli_that_nobody_answers_on_is_named() {
    netns::enter();
    let mut scene = Scene::prepare(&HaproxyBinary::installed(), Way::Cli, Config::web(WEB), "");
    scene.start_haproxy();
    let cli = scene.dir.path().join("master.sock");
    scene.rig.start_daemon();
    std::fs::remove_file(&cli).unwrap();
    let worker = scene.master().worker();
    let refused = scene.rig.reload().expect_status(1);
    let reason = refused.at("/reason").to_string();
    assert!(reason.contains("master-cli") && reason.contains("master.sock") && reason.contains("-S"), "{reason}");
    assert_eq!(scene.master().worker(), worker);
}

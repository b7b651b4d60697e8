//! Lets HAProxy's unit act by itself: it reloads HAProxy, fails, ends it and starts it again.

use std::time::Instant;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::footprint::Footprint;
use reloader_tests::haproxy::{HaproxyBinary, runtime};
use reloader_tests::idle::IdleConnections;
use reloader_tests::load::Load;
use reloader_tests::poll::until;
use reloader_tests::receipt::{assert_passed, listener, traffic};
use reloader_tests::rig::Answer;
use reloader_tests::servers::{Reaction, Server};
use reloader_tests::sockets::{holders, listening, refuses, until_refused};
use reloader_tests::{netns, versions};

use super::{LIMIT, Scene, WEB, Way, every_version_both_ways};

const IDLE: &str = "127.0.0.1:8081";
const SESSIONS: usize = 20;

/// The newest receipt as an answer.
fn last(scene: &Scene) -> Answer {
    let status = scene.rig.status();
    Answer { json: status.at("/last-reload").clone(), ..status }
}

#[test]
fn failed_configuration_leaves_the_old_worker_serving() {
    netns::enter();
    for (binary, way) in every_version_both_ways() {
        let scene = Scene::begin(&binary, way, Config::web(WEB), "");
        let old = scene.master().worker().unwrap();
        let load = Load::to([WEB]).start();
        load.until_started(100);
        scene.configure(Config::web(WEB).section("frobnicate\n"));
        let refused = scene.rig.reload().expect_status(1);
        assert_eq!((refused.at("/result"), refused.at("/new")), (&"failed".into(), &serde_json::Value::Null));
        let log = refused.at("/server-log").to_string();
        assert!(log.contains("frobnicate"), "{binary} {way:?}: {}", refused.stdout);
        assert_eq!(scene.rig.serving(), Some(old));
        load.until_further(100);
        scene.configure(Config::web(WEB));
        let receipt = scene.rig.reload().expect_status(0);
        assert_eq!(receipt.at("/old/pid"), old.pid, "{binary} {way:?}");
        load.until_further(100);
        load.stop().assert_lossless();
    }
}

/// HAProxy's check accepts the configuration, but its worker cannot start.
#[test]
fn occupied_port_fails_the_reload() {
    netns::enter();
    for (binary, way) in every_version_both_ways() {
        let scene = Scene::begin(&binary, way, Config::web(WEB), "");
        let old = scene.master().worker().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap();
        scene.configure(Config::web(WEB).frontend("taken", &[&port.to_string()]));
        let load = Load::to([WEB]).start();
        let began = Instant::now();
        let refused = scene.rig.reload().expect_status(1);
        println!("{binary} {way:?}: {} after {:?}", refused.at("/reason"), began.elapsed());
        assert!(began.elapsed() < LIMIT, "the failure was noticed before the time limit");
        assert_eq!(scene.rig.serving(), Some(old), "{binary} {way:?}");
        load.until_further(100);
        // HAProxy makes its old worker pause all listeners while the new one tries to bind (SIGTTOU). Its clients
        // wait, and some are reset, whichever process asked for the reload.
        println!("meanwhile: {}", load.stop());
        let after = Load::to([WEB]).connections(200).run();
        after.assert_lossless();
    }
}

#[test]
#[ignore = "alone: loads"]
fn reload_by_the_unit_is_followed() {
    netns::enter();
    let shards = |count: usize| Config::new().global("nbthread 4").frontend("web", &[&format!("{WEB} shards {count}")]);
    let scene = Scene::begin(&HaproxyBinary::installed(), Way::Cli, shards(4), "");
    let load = Load::to([WEB]).rate(2000).start();
    let mut migrated = 0;
    for round in 2..12 {
        load.until_further(400);
        scene.configure(shards(if round % 2 == 0 { 1 } else { 4 }));
        let worker = scene.master().reload();
        until(LIMIT, "the daemon to follow", || scene.rig.serving() == Some(worker));
        until(LIMIT, "its receipt", || last(&scene).at("/new/generation") == round);
        let receipt = last(&scene);
        assert_eq!(
            (receipt.at("/kind"), receipt.at("/result")),
            (&"adopt".into(), &"proven".into()),
            "{}",
            receipt.json
        );
        if round % 2 == 0 {
            let steered = traffic(&receipt).iter().filter(|listener| listener["rung"] == "steered").count();
            assert_eq!(steered, 3, "{}", receipt.json);
        }
        migrated += traffic(&receipt).iter().filter_map(|listener| listener["migrated"].as_u64()).sum::<u64>();
    }
    load.until_further(400);
    let outcomes = load.stop();
    println!("{migrated} migrated: {outcomes}");
    outcomes.assert_lossless();
    assert!(migrated > 0, "the old queues were empty: this proves nothing");
    scene.configure(shards(4));
    let worker = scene.master().worker().unwrap();
    assert_eq!(scene.rig.reload().expect_status(0).at("/old/pid"), worker.pid);
}

#[test]
#[ignore = "alone: loads"]
fn reload_by_the_unit_is_followed_with_every_version() {
    netns::enter();
    for binary in versions::all() {
        let scene = Scene::begin(&binary, Way::Signal, Config::web(WEB), "");
        let load = Load::to([WEB]).rate(1000).start();
        for _ in 0..3 {
            load.until_further(200);
            let worker = scene.master().reload();
            until(LIMIT, "the daemon to follow", || last(&scene).at("/new/pid") == worker.pid);
            let receipt = last(&scene);
            assert_eq!(receipt.at("/result"), "proven", "{binary}: {}", receipt.json);
        }
        load.until_further(200);
        assert_eq!(scene.rig.reload().expect_status(0).at("/result"), "proven", "{binary}");
        load.until_further(200);
        let outcomes = load.stop();
        println!("{binary}: {outcomes}");
        outcomes.assert_lossless();
    }
}

/// The configuration uses a variable of the unit: the check before the signal must not fail because it is missing.
#[test]
fn check_uses_the_environment_of_the_unit() {
    netns::enter();
    let config = Config::new().frontend("web", &["127.0.0.1:\"${COMPANION_PORT}\""]);
    let mut scene = Scene::prepare(&HaproxyBinary::installed(), Way::Signal, config, "");
    scene.environment = vec![("COMPANION_PORT", "8000")];
    scene.start_haproxy();
    scene.rig.start_daemon();
    assert_passed(&scene.rig.reload(), 1);
}

/// HAProxy is not started again. Sockets that only the daemon has would make clients wait, so custody ends.
#[test]
#[ignore = "alone: loads"]
fn custody_ends_if_haproxy_dies_and_is_not_started_again() {
    netns::enter();
    let mut scene = Scene::prepare(&HaproxyBinary::installed(), Way::Cli, Config::web(WEB), "");
    let before = Footprint::take(scene.rig.dir());
    scene.start_haproxy();
    scene.rig.start_daemon();
    let sockets = listening(8000);
    assert_eq!(holders(&sockets).len(), 2, "the worker and the daemon");
    scene.master().kill();
    until(LIMIT, "the end to be noticed", || scene.rig.serving().is_none());
    assert!(!refuses(WEB), "custody is kept for some time");
    until_refused(WEB);
    assert!(listening(8000).is_empty() && holders(&sockets).is_empty());
    let status = scene.rig.status();
    assert_eq!(status.at("/custody").as_array().map(Vec::len), Some(0));
    let warnings = status.at("/warnings").to_string();
    assert!(warnings.contains("waiting for HAProxy") && warnings.contains("does not start it"), "{warnings}");
    let refused = scene.rig.reload().expect_status(4);
    assert!(refused.at("/reason").to_string().contains("starts no HAProxy"), "{}", refused.stdout);
    scene.master = None;
    assert!(!scene.rig.log().contains("generation-1.cfg"));
    scene.rig.run(&["stop"]).expect_status(0);
    before.assert_unchanged();
}

/// The unit starts HAProxy again before custody ends. Connections that came meanwhile have waited on the old sockets
/// and move over.
#[test]
#[ignore = "alone: loads"]
fn haproxy_started_again_gets_the_queued_connections() {
    netns::enter();
    let tables = "[reload]\ncustody-max = \"20s\"\n";
    let mut scene = Scene::begin(&HaproxyBinary::installed(), Way::Cli, Config::web(WEB), tables);
    let load = Load::to([WEB]).rate(1000).start();
    let mut migrated = 0;
    for _ in 0..5 {
        load.until_further(300);
        scene.master().kill();
        load.until_further(100);
        scene.start_haproxy();
        let worker = scene.master().worker().unwrap();
        until(LIMIT, "the daemon to follow", || scene.rig.serving() == Some(worker));
        until(LIMIT, "its receipt", || last(&scene).at("/new/pid") == worker.pid);
        let receipt = last(&scene);
        assert_eq!(
            (receipt.at("/kind"), receipt.at("/result")),
            (&"adopt".into(), &"proven".into()),
            "{}",
            receipt.json
        );
        assert_eq!(receipt.at("/lost/cut"), &serde_json::Value::Null);
        let web = listener(&receipt, WEB);
        assert_eq!(web["rung"], "steered");
        migrated += web["migrated"].as_u64().unwrap();
    }
    load.until_further(300);
    let outcomes = load.stop();
    println!("5 kills, {migrated} migrated: {outcomes}");
    let lost = outcomes.summary();
    assert_eq!((lost.refused, lost.timeout), (0, 0), "{outcomes}");
    assert!(migrated > 0, "the old queues were empty: this proves nothing");
    // Connections inside the killed worker are lost with it.
    assert!(lost.failed() <= 5 * 5, "{outcomes}");
    assert_passed(&scene.rig.reload(), 1);
}

/// The worker closes a listener itself, as with `shutdown frontend`. Custody must not keep it, because its clients
/// would wait.
#[test]
fn listener_closed_by_the_worker_leaves_custody() {
    netns::enter();
    let config = Config::web(WEB).frontend("other", &["127.0.0.1:8001"]);
    // A version that passes sockets to its next worker keeps such a socket open, and makes clients wait by itself.
    let binary = versions::all().into_iter().min_by_key(|binary| binary.version).unwrap();
    let scene = Scene::begin(&binary, Way::Cli, config, "");
    runtime(&scene.stats(), "shutdown frontend other").unwrap();
    until_refused("127.0.0.1:8001");
    assert!(!refuses(WEB));
    assert_eq!(scene.rig.status().at("/custody").as_array().map(Vec::len), Some(1));
}

/// `systemctl stop` with a soft stop: the worker drains, and the port has no listener.
#[test]
fn custody_ends_if_haproxy_is_stopped_softly() {
    netns::enter();
    let scene = Scene::begin(&HaproxyBinary::installed(), Way::Cli, Config::web(WEB), "");
    let client = std::net::TcpStream::connect(WEB).unwrap();
    scene.master().process.signal(Signal::SIGUSR1);
    until_refused(WEB);
    assert_eq!(scene.rig.serving(), None);
    drop(client);
}

/// The stats socket alone lets HAProxy start. No listener serves clients, and the receipt does not call that proven.
#[test]
fn configuration_without_traffic_listeners_is_not_proven() {
    netns::enter();
    let scene = Scene::begin(&HaproxyBinary::installed(), Way::Cli, Config::web(WEB), "");
    scene.configure(Config::new());
    let answer = scene.rig.reload();
    let reason = answer.at("/reason").as_str().unwrap_or_default().to_owned();
    assert!([1, 3].contains(&answer.status), "{}", answer.stdout);
    assert!(answer.status == 1 || reason.contains("no listener for traffic"), "{}", answer.stdout);
}

/// The master ends an old worker that has seen too many reloads. The daemon is not its parent.
#[test]
fn worker_that_its_master_ends_early_is_counted() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    let config =
        Config::web(WEB).global("mworker-max-reloads 1").tcp_proxy("idle", &[IDLE], &backend.address.to_string());
    let scene = Scene::begin(&HaproxyBinary::installed(), Way::Cli, config, "");
    let old = scene.rig.serving_pid();
    let mut idle = IdleConnections::open(IDLE, SESSIONS);
    scene.rig.reload().expect_status(0);
    assert_eq!(scene.rig.status().at("/draining/0/connections"), &serde_json::Value::from(SESSIONS));
    scene.rig.reload().expect_status(0);
    until(LIMIT, "the master to end the old worker", || idle.alive() == 0);
    let end = |receipt: &serde_json::Value| receipt["kind"] == "end" && receipt["old"]["pid"] == old;
    let mut found = None;
    until(LIMIT, "a receipt of the end", || {
        found = scene.rig.history().json.as_array().unwrap().iter().find(|receipt| end(receipt)).cloned();
        found.is_some()
    });
    let found = found.unwrap();
    assert_eq!(found["lost"]["cut"], SESSIONS, "{found}");
    assert!(found["reason"].as_str().unwrap().contains("was killed by signal 15"), "{found}");
}

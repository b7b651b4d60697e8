//! Ends retired workers in every way, and compares what died, as the clients count it, with what the receipts say was cut.

use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::idle::IdleConnections;
use reloader_tests::netns;
use reloader_tests::poll::{satisfied_within, until};
use reloader_tests::process::Process;
use reloader_tests::servers::{Reaction, Server};
use serde_json::Value;

use super::{LIMIT, Scene, WEB, Way};

const IDLE: &str = "127.0.0.1:8001";
const SESSIONS: usize = 20;

/// A name, a line of `global`, what is done once the worker drains, how many sessions die, and whether the receipts say how many were cut.
type Row = (&'static str, &'static str, fn(&mut Scene, Process, &mut IdleConnections), usize, bool);

const ROWS: &[Row] = &[
    ("its clients finish", "", |_, _, sessions| assert_eq!(sessions.count_answered(), SESSIONS), 0, true),
    ("hard-stop-after of HAProxy", "hard-stop-after 3s", |_, _, _| {}, SESSIONS, true),
    ("SIGKILL to the worker", "", |_, worker, _| worker.signal(Signal::SIGKILL), SESSIONS, true),
    ("SIGTERM to the worker", "", |_, worker, _| worker.signal(Signal::SIGTERM), SESSIONS, true),
    (
        "mworker-max-reloads",
        "mworker-max-reloads 1",
        |scene, worker, _| {
            (0..3).for_each(|_| drop(scene.rig.reload()));
            worker.until_gone(LIMIT);
        },
        SESSIONS,
        true,
    ),
    ("SIGKILL to the master", "", |scene, worker, _| end_master(scene, worker, Signal::SIGKILL), SESSIONS, true),
    ("SIGTERM to the master", "", |scene, worker, _| end_master(scene, worker, Signal::SIGTERM), SESSIONS, true),
    (
        "SIGKILL to the worker while there is no daemon",
        "",
        |scene, worker, _| {
            scene.rig.kill9_daemon();
            worker.signal(Signal::SIGKILL);
            worker.until_gone(LIMIT);
            scene.rig.start_daemon();
        },
        SESSIONS,
        false,
    ),
];

fn end_master(scene: &mut Scene, worker: Process, signal: Signal) {
    scene.master().process.signal(signal);
    worker.until_gone(LIMIT);
    scene.start_haproxy();
}

#[test]
fn receipts_say_what_the_clients_of_a_retired_worker_lost() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    let mut wrong = Vec::new();
    for (name, global, end, dies, is_counted) in ROWS {
        let config = Config::web(WEB).tcp_proxy("idle", &[IDLE], &backend.address.to_string());
        let config = if global.is_empty() { config } else { config.global(global) };
        let mut scene = Scene::begin(&HaproxyBinary::installed(), Way::Cli, config, "");
        let worker = scene.rig.serving().unwrap();
        let mut sessions = IdleConnections::open(IDLE, SESSIONS);
        scene.rig.reload();
        let counted = || scene.rig.status().at("/draining/0/connections") == &Value::from(SESSIONS);
        until(LIMIT, "the daemon to count", counted);
        end(&mut scene, worker, &mut sessions);
        worker.until_gone(LIMIT);
        satisfied_within(LIMIT, || sessions.alive() == 0);
        let died = sessions.deaths().len();
        assert_eq!(died, *dies, "{name}");
        let expected = is_counted.then_some(died as u64);
        // The other worker may end too.
        let told = || {
            let history = scene.rig.history().json;
            let of_worker = history.as_array().unwrap().iter().filter(|receipt| receipt["old"]["pid"] == worker.pid);
            of_worker.map(|receipt| receipt["lost"]["cut"].as_u64()).sum::<Option<u64>>()
        };
        satisfied_within(Duration::from_secs(5), || told() == expected);
        let said = told();
        println!("{name:<50} died {died:>2}, receipts: {said:?}");
        if said != expected {
            wrong.push(format!("{name}: {died} died, the receipts say {said:?}: {}", scene.rig.history().stdout));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

//! Kills the daemon while it holds, and checks what `status` reports about holds.

use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::{guards, with_arguments};
use reloader_tests::rig::{Pending, Rig};
use reloader_tests::sockets::listening;
use reloader_tests::tier;
use reloader_tests::waiting::Client;
use reloader_tests::wrapper::{Behaviour, Wrapper};

use super::{HOLD, WEB};

const LIMIT: Duration = Duration::from_secs(20);

fn rig(wrapper: &Wrapper) -> Rig {
    let config = Config::web(WEB).global("noreuseport");
    Rig::with(&config).haproxy_at(&wrapper.path()).tables(&format!("{HOLD}\n[hold]\nmax = \"60s\"")).start()
}

/// Starts a reload whose new generation serves but never becomes ready: the hold stays active.
fn in_a_hold(rig: &Rig, wrapper: &Wrapper) -> Pending {
    wrapper.set(Behaviour::NoStatsSocket);
    let reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "the hold", || !rig.status().at("/holds").as_array().unwrap().is_empty());
    reload
}

#[test]
fn status_lists_a_hold() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = rig(&wrapper);
    assert!(rig.run(&["status"]).stdout.lines().any(|line| line.starts_with("held") && line.ends_with("nothing")));
    let _reload = in_a_hold(&rig, &wrapper);
    until(LIMIT, "the gate in the registry", || rig.status().at("/holds/0/backend").is_string());
    let status = rig.status();
    let hold = status.at("/holds/0");
    assert_eq!((&hold["backend"], &hold["listen"]), (&"ebpf".into(), &serde_json::json!([WEB])));
    assert_eq!(hold["holder"], rig.daemon_process().pid);
    assert!(hold["id"].is_u64() && hold["since"].as_str().unwrap().ends_with('Z'), "{hold}");
    let text = rig.run(&["status"]).expect_status(0).stdout;
    let line = text.lines().find(|line| line.starts_with("held")).unwrap();
    assert!(line.contains(WEB) && line.contains("ebpf"), "{text}");
}

/// The guard releases the hold. The new generation serves, although no daemon knows it yet, and the next daemon cleans
/// up.
#[test]
#[ignore = "alone: loads"]
fn daemon_killed_during_a_hold_loses_nothing() {
    netns::enter();
    let wrapper = Wrapper::new();
    let mut rig = rig(&wrapper);
    let load = Load::to([WEB]).rate(500).start();
    load.until_started(100);
    let before = listening(8000);
    let reload = in_a_hold(&rig, &wrapper);
    until(LIMIT, "the new generation to listen", || {
        !listening(8000).is_empty() && listening(8000).is_disjoint(&before)
    });
    load.until_further(50);
    assert!(load.started() - load.finished() >= 40, "SYNs are parked");
    rig.kill9_daemon();
    reload.wait().expect_status(69);
    until(LIMIT, "the guard to end", || guards().is_empty());
    assert_eq!(std::fs::read_dir(rig.path("run/holds")).unwrap().count(), 0, "registry entries");
    load.until_further(100);
    let outcomes = load.stop();
    println!("the daemon killed: {outcomes}");

    wrapper.set(Behaviour::Normal);
    rig.start_daemon();
    until(LIMIT, "a generation to serve", || rig.serving().is_some());
    Load::to([WEB]).connections(200).run().assert_lossless();
    rig.reload().expect_status(0);
    assert_eq!(rig.status().at("/holds"), &serde_json::json!([]));
    outcomes.assert_lossless();
}

/// The old generation has vacated, and the new one has not started: the guard holds until the next daemon's generation
/// listens.
#[test]
#[ignore = "alone: loads"]
fn daemon_killed_while_nothing_listens_loses_nothing() {
    netns::enter();
    let wrapper = Wrapper::new();
    let mut rig = rig(&wrapper);
    let load = Load::to([WEB]).rate(500).start();
    load.until_started(100);
    wrapper.set(Behaviour::WaitForChange);
    let reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "the old generation to vacate", || listening(8000).is_empty());
    load.until_further(50);
    rig.kill9_daemon();
    reload.wait().expect_status(69);
    with_arguments(&["-db", &rig.haproxy_cfg().display().to_string()]).iter().for_each(|starting| starting.end());
    assert_eq!(guards().len(), 1, "the guard goes on");
    load.until_further(100);
    wrapper.set(Behaviour::Normal);
    rig.start_daemon();
    until(LIMIT, "a generation to serve", || rig.serving().is_some());
    until(LIMIT, "the guard to end", || guards().is_empty());
    load.until_further(100);
    let outcomes = load.stop();
    println!("{outcomes}");
    outcomes.assert_lossless();
    assert_eq!(rig.status().at("/holds"), &serde_json::json!([]));
    rig.reload().expect_status(0);
}

#[test]
#[ignore = "alone: loads"]
fn daemon_killed_at_any_moment_loses_nothing() {
    netns::enter();
    let wrapper = Wrapper::new();
    let mut rig = rig(&wrapper);
    let load = Load::to([WEB]).rate(500).start();
    load.until_started(100);
    for kill in tier::moments(8) {
        let reload = rig.spawn(&["reload", "--json"]);
        // A moment between the check of the configuration and the start of the new generation. The exact moment does
        // not matter.
        std::thread::sleep(Duration::from_millis(40 + 12 * kill));
        rig.kill9_daemon();
        reload.wait();
        rig.start_daemon();
        until(LIMIT, "a generation to serve", || rig.serving().is_some());
        until(LIMIT, "the guard to end", || guards().is_empty());
        load.until_further(50);
    }
    let outcomes = load.stop();
    println!("{outcomes}");
    assert_eq!(outcomes.summary().refused, 0, "{outcomes}");
    outcomes.assert_lossless();
}

/// `reloader release` ends a guard whose holder is dead.
#[test]
#[ignore = "alone: loads"]
fn release_ends_a_guard_without_a_holder() {
    netns::enter();
    let wrapper = Wrapper::new();
    let mut rig = rig(&wrapper);
    wrapper.set(Behaviour::WaitForChange);
    let reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "the old generation to vacate", || listening(8000).is_empty());
    let client = Client::start(WEB.parse().unwrap());
    rig.kill9_daemon();
    reload.wait().expect_status(69);
    assert_eq!(guards().len(), 1, "the guard goes on");
    assert!(!client.is_connected());
    let released = rig.run(&["release", "--json"]).expect_status(0);
    assert_eq!(released.at("/lifted").as_array().map(Vec::len), Some(1), "{}", released.stdout);
    assert!(guards().is_empty());
    assert_eq!(std::fs::read_dir(rig.path("run/holds")).unwrap().count(), 0, "registry entries");
}

//! Makes reloads in which all sockets are passed except one, which changes. The changed socket is steered if it stays
//! in its reuseport group, and held if it does not.

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::receipt::traffic;
use reloader_tests::rig::{Answer, Rig};

use super::assert_slow_only_by;

const FIRST: &str = "127.0.0.1:8000";

/// Reloads under load from one configuration to the other, and expects this many listeners passed, steered and held.
#[track_caller]
fn assert_reload(from: &[&str], to: &[&str], clients: &[&str], expected: (usize, usize, usize)) {
    netns::enter();
    let rig = Rig::with(&Config::new().frontend("web", from)).start();
    let load = Load::to(clients.iter().copied()).rate(1000).start();
    load.until_started(200);
    rig.configure(&Config::new().frontend("web", to));
    let receipt = rig.reload().expect_status(0);
    assert_eq!(receipt.at("/result"), "proven", "{}", receipt.stdout);
    let found = (count_with(&receipt, "passed"), count_with(&receipt, "steered"), count_with(&receipt, "held-ebpf"));
    assert_eq!(found, expected, "{}", receipt.stdout);
    load.until_further(200);
    let outcomes = load.stop();
    println!("{outcomes}");
    outcomes.assert_lossless();
    assert_slow_only_by(&[receipt], &outcomes);
}

fn count_with(receipt: &Answer, rung: &str) -> usize {
    traffic(receipt).iter().filter(|listener| listener["rung"] == rung).count()
}

#[test]
#[ignore = "alone: loads"]
fn single_ipv6_address_is_steered() {
    let binds = [FIRST, "[::1]:8081"];
    assert_reload(&binds, &binds, &binds, (1, 1, 0));
}

#[test]
#[ignore = "alone: loads"]
fn removed_shard_is_steered() {
    assert_reload(&["127.0.0.1:8000 shards 2"], &["127.0.0.1:8000 shards 1"], &[FIRST], (1, 1, 0));
}

#[test]
#[ignore = "alone: loads"]
fn changed_interface_is_held() {
    let other = "127.0.0.1:8081";
    assert_reload(&[FIRST, other], &[FIRST, "127.0.0.1:8081 interface lo"], &[FIRST, other], (1, 0, 1));
}

#[test]
fn fd_pass_never_holds() {
    netns::enter();
    let config = Config::new().frontend("web", &[FIRST, "[::1]:8081"]);
    let rig = Rig::with(&config).tables("[reload]\nstrategy = \"fd-pass\"").start();
    let receipt = rig.reload().expect_status(3);
    assert_eq!((receipt.at("/result"), receipt.at("/phases-us/guard")), (&"unproven".into(), &serde_json::Value::Null));
    assert_eq!((count_with(&receipt, "passed"), count_with(&receipt, "unproven")), (1, 1), "{}", receipt.stdout);
}

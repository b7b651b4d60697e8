//! Reloads HAProxy under load, by asking its master.

use reloader_tests::config::Config;
use reloader_tests::haproxy::{HaproxyBinary, Version};
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::receipt::{assert_passed, listener};
use reloader_tests::tier;

use super::{Scene, WEB, Way, every_version_both_ways};

const RATE: u32 = 3000;

fn reloads() -> usize {
    tier::rounds(24)
}

#[test]
#[ignore = "alone: loads with 3,000 connections a second"]
fn reloads_by_master_cli_lose_nothing() {
    reload_unchanged_configuration(Way::Cli);
}

#[test]
#[ignore = "alone: loads with 3,000 connections a second"]
fn reloads_by_signal_lose_nothing() {
    reload_unchanged_configuration(Way::Signal);
}

fn reload_unchanged_configuration(way: Way) {
    netns::enter();
    let scene = Scene::begin(&HaproxyBinary::installed(), way, Config::web(WEB), "");
    let load = Load::to([WEB]).rate(RATE).start();
    for round in 2..2 + reloads() as u64 {
        load.until_further(u64::from(RATE) / 5);
        let receipt = scene.rig.reload();
        assert_passed(&receipt, 1);
        assert_eq!(receipt.at("/new/generation"), round);
        assert_eq!(receipt.at("/new/pid"), scene.master().worker().expect("a worker").pid);
        let notes = receipt.at("/notes").to_string();
        assert!(notes.contains("retired the old worker by itself"), "{notes}");
    }
    load.until_further(u64::from(RATE) / 5);
    let outcomes = load.stop();
    println!("{way:?}, {} reloads: {outcomes}", reloads());
    outcomes.assert_lossless();
}

#[test]
#[ignore = "alone: loads with 3,000 connections a second"]
fn every_version_reloads_without_loss_both_ways() {
    netns::enter();
    for (binary, way) in every_version_both_ways() {
        let scene = Scene::begin(&binary, way, Config::web(WEB), "");
        let passes = binary.version >= Version { major: 2, minor: 6 };
        scene.rig.reload().expect_status(0);
        let load = Load::to([WEB]).rate(1500).start();
        for _ in 0..4 {
            load.until_further(300);
            let receipt = scene.rig.reload();
            assert!(receipt.status == 0, "{binary}: {}{}", receipt.stdout, receipt.stderr);
            let rung = if passes { "passed" } else { "steered" };
            assert_eq!(listener(&receipt, WEB)["rung"], rung, "{binary}: {}", receipt.stdout);
        }
        load.until_further(300);
        let outcomes = load.stop();
        println!("{binary} {way:?}: {outcomes}");
        outcomes.assert_lossless();
    }
}

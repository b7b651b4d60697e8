//! Switches between two HAProxy instances, as docs/guide/flip.md describes it for those who come from there. Shows what that keeps and what it loses.

use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::bench::{Flip, NFTABLES, Way};
use reloader_tests::config::Config;
use reloader_tests::documents;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::receipt::assert_passed;
use reloader_tests::rig::Rig;

const WEB: &str = "127.0.0.1:8000";

fn flips_keep_connections_and_a_kill_refuses(way: Way) {
    netns::enter();
    let mut flip = Flip::start(way);
    let load = Load::to([WEB]).rate(1000).start();
    for _ in 0..5 {
        load.until_further(200);
        flip.reload().unwrap();
    }
    load.until_further(200);
    load.stop().assert_lossless();
    // No socket outlives the current instance.
    flip.process().signal(Signal::SIGKILL);
    flip.process().until_gone(Duration::from_secs(5));
    let outcomes = Load::to([WEB]).connections(50).run();
    let summary = outcomes.summary();
    assert!(summary.failed() == 50 && summary.refused > 0, "{outcomes}");
    flip.reload().unwrap();
    Load::to([WEB]).connections(50).run().assert_lossless();
}

/// The daemon's server starts on the port itself, and gets the clients when the switch is taken away.
fn move_to_reloader_loses_nothing(way: Way) {
    netns::enter();
    let flip = Flip::start(way);
    let load = Load::to([WEB]).rate(1000).start();
    load.until_further(200);
    let rig = Rig::with(&Config::web(WEB)).start();
    load.until_further(200);
    flip.leave().unwrap();
    load.until_further(200);
    assert_passed(&rig.reload(), 1);
    load.until_further(200);
    load.stop().assert_lossless();
}

#[test]
#[ignore = "alone: loads"]
fn move_from_a_map_of_nftables_to_reloader_loses_nothing() {
    move_to_reloader_loses_nothing(Way::FlipNftables);
}

#[test]
#[ignore = "alone: loads"]
fn move_from_a_lookup_program_to_reloader_loses_nothing() {
    move_to_reloader_loses_nothing(Way::FlipSkLookup);
}

#[test]
#[ignore = "alone: loads"]
fn nftables_map_keeps_connections_and_a_killed_instance_refuses() {
    flips_keep_connections_and_a_kill_refuses(Way::FlipNftables);
}

#[test]
#[ignore = "alone: loads"]
fn lookup_program_keeps_connections_and_a_killed_instance_refuses() {
    flips_keep_connections_and_a_kill_refuses(Way::FlipSkLookup);
}

#[test]
fn guide_has_the_table_that_is_tested() {
    assert_eq!(documents::block("docs/guide/flip.md", "table inet flip").text, NFTABLES);
}

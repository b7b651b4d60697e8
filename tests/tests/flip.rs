//! Switches between two HAProxy instances, as docs/guide/flip.md describes it for those who come from there. Shows what that keeps and what it loses.

use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::bench::{Flip, NFTABLES, Way};
use reloader_tests::documents;
use reloader_tests::load::Load;
use reloader_tests::netns;

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
    let summary = Load::to([WEB]).connections(50).run().summary();
    assert_eq!((summary.failed(), summary.refused), (50, 50));
    flip.reload().unwrap();
    Load::to([WEB]).connections(50).run().assert_lossless();
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

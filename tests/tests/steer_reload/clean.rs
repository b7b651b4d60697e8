//! Reloads under load: nothing is lost, and beside the same load without a reload nothing is delayed.

use reloader_tests::config::Config;
use reloader_tests::footprint::Footprint;
use reloader_tests::load::{Load, Outcomes};
use reloader_tests::netns;
use reloader_tests::receipt::listener;
use reloader_tests::rig::Rig;

use crate::{STEER, WEB};

const RATE: u32 = 4000;
const RELOADS: u64 = 100;
const CONNECTIONS: u64 = 200_000;
/// For the comparison.
const WITHOUT: u64 = 40_000;

#[test]
fn nothing_is_lost_and_nothing_is_left() {
    let _alone = netns::enter_alone();
    let mut rig = Rig::with(&Config::web(WEB)).tables(STEER).prepare();
    let before = Footprint::take_with_bpf(rig.dir());
    rig.start_daemon();
    let still = Load::to([WEB]).rate(RATE).connections(WITHOUT).run();
    let load = Load::to([WEB]).rate(RATE).connections(CONNECTIONS).start();
    let mut migrated = 0;
    for round in 1..=RELOADS {
        load.until_started(round * CONNECTIONS / (RELOADS + 1));
        let receipt = rig.reload();
        assert!(receipt.status == 0 && receipt.at("/result") == "proven", "{}{}", receipt.stdout, receipt.stderr);
        let web = listener(&receipt, WEB);
        assert_eq!(web["rung"], "steered", "{}", receipt.stdout);
        assert_ne!(web["inode-before"], web["inode-after"]);
        migrated += web["migrated"].as_u64().expect("a figure");
    }
    let outcomes = load.wait();
    let p99 = |outcomes: &Outcomes| outcomes.summary().latency.value_at_quantile(0.99) as f64 / 1000.0;
    println!("{RELOADS} reloads, {migrated} migrated: {outcomes}");
    println!("no reload: {still}");
    println!("p99 {:.2} / {:.2} ms = {:.2}", p99(&outcomes), p99(&still), p99(&outcomes) / p99(&still));
    outcomes.assert_lossless();
    rig.run(&["stop"]).expect_status(0);
    before.assert_unchanged();
}

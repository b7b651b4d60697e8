//! Reloads under load: nothing is lost, nothing is delayed.

use reloader_tests::config::Config;
use reloader_tests::footprint::Footprint;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::receipt::listener;
use reloader_tests::rig::Rig;

use crate::{STEER, WEB};

const RELOADS: u64 = 20;
const CONNECTIONS: u64 = 40_000;

#[test]
fn nothing_is_lost_and_nothing_is_left() {
    let _alone = netns::enter_alone();
    let mut rig = Rig::with(&Config::web(WEB)).tables(STEER).prepare();
    let before = Footprint::take_with_bpf(rig.dir());
    rig.start_daemon();
    let load = Load::to([WEB]).rate(2000).connections(CONNECTIONS).start();
    for round in 1..=RELOADS {
        load.until_started(round * CONNECTIONS / (RELOADS + 1));
        let receipt = rig.reload();
        assert!(receipt.status == 0 && receipt.at("/result") == "proven", "{}{}", receipt.stdout, receipt.stderr);
        let web = listener(&receipt, WEB);
        assert_eq!(web["rung"], "steered", "{}", receipt.stdout);
        assert_ne!(web["inode-before"], web["inode-after"]);
        assert!(web["migrated"].is_u64(), "{}", receipt.stdout);
    }
    let outcomes = load.wait();
    println!("{outcomes}");
    outcomes.assert_lossless();
    rig.run(&["stop"]).expect_status(0);
    before.assert_unchanged();
}

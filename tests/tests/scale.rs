//! Tests that thousands of listeners are all passed, in batches through the broker.

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::receipt::{assert_passed, traffic};
use reloader_tests::rig::Rig;

const LISTENERS: usize = 3000;

#[test]
fn three_thousand_listeners_are_all_passed() {
    netns::enter();
    let mut rig = Rig::with(&Config::web("127.0.0.1:5000-7999")).start();
    let load = Load::to(["127.0.0.1:5000", "127.0.0.1:6500", "127.0.0.1:7999"]).rate(1000).start();
    load.until_started(200);
    for _ in 0..5 {
        let receipt = rig.reload();
        assert_passed(&receipt, LISTENERS);
        let inodes: std::collections::HashSet<u64> =
            traffic(&receipt).iter().filter_map(|listener| listener["inode-after"].as_u64()).collect();
        assert_eq!(inodes.len(), LISTENERS);
        println!("{}", receipt.at("/phases-us"));
    }
    assert_eq!(rig.status().at("/custody").as_array().map(Vec::len), Some(LISTENERS));

    // The next daemon takes all of them into custody again and passes them.
    rig.kill9_daemon();
    rig.start_daemon();
    assert_eq!(rig.status().at("/custody").as_array().map(Vec::len), Some(LISTENERS));
    assert_passed(&rig.reload(), LISTENERS);
    load.stop().assert_lossless();
}

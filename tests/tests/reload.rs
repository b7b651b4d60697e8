//! Reloads under load: every connection is served, every listener passed with an equal inode.

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::rig::Rig;

#[test]
fn twenty_reloads_under_load_lose_nothing() {
    netns::enter();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    let load = Load::to(["127.0.0.1:8080"]).rate(2000).start();
    load.until_started(500);
    for _ in 0..20 {
        let receipt = rig.reload().expect_status(0);
        assert_eq!(receipt.at("/result"), "proven");
        let listener = receipt.at("/listeners/0");
        assert_eq!((&listener["rung"], &listener["inode-before"]), (&"passed".into(), &listener["inode-after"]));
        load.until_further(100);
    }
    load.stop().assert_lossless();
}

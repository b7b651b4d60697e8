//! Holds more listeners than fit into one message to the guard.

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::receipt::traffic;
use reloader_tests::rig::Rig;

use super::HOLD;

const LISTENERS: usize = 3000;

#[test]
#[ignore = "alone: loads"]
fn three_thousand_listeners_are_held() {
    netns::enter();
    let tables = format!("{HOLD}\n[hold]\nmax = \"60s\"\n");
    let rig = Rig::with(&Config::web("127.0.0.1:5000-7999").global("noreuseport")).tables(&tables).start();
    let load = Load::to(["127.0.0.1:5000", "127.0.0.1:6500", "127.0.0.1:7999"]).rate(500).start();
    load.until_started(100);
    let receipt = rig.reload().expect_status(0);
    let traffic = traffic(&receipt);
    assert_eq!(traffic.len(), LISTENERS);
    assert!(traffic.iter().all(|listener| listener["rung"] == "held-ebpf"));
    load.until_further(100);
    load.stop().assert_lossless();
}

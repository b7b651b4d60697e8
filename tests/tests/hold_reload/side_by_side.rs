//! Reloads with `strategy = "hold"` where both generations can bind at the same time: TCP is held, and everything else
//! is passed.

use reloader_tests::config::Config;
use reloader_tests::footprint::Footprint;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::receipt::listener;
use reloader_tests::rig::{Answer, Rig};

use super::{HOLD, WEB, assert_slow_only_by};

fn assert_tcp_held(globals: &[&str], tables: &str) -> Vec<Answer> {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("unix@{}/web.sock", dir.path().display());
    let config = Config::new().frontend("web", &[WEB, &unix]);
    let config = globals.iter().fold(config, |config, line| config.global(line));
    let rig = Rig::with(&config).tables(tables).start();
    let before = Footprint::take(rig.dir());
    let load = Load::to([WEB, &unix]).rate(1000).start();
    load.until_started(200);
    let receipts = (0..5).map(|_| {
        let receipt = rig.reload().expect_status(0);
        load.until_further(100);
        receipt
    });
    let receipts: Vec<Answer> = receipts.collect();
    for receipt in &receipts {
        let (tcp, passed) = (listener(receipt, WEB), listener(receipt, &unix["unix@".len()..]));
        assert_eq!(
            (receipt.at("/result"), &tcp["rung"]),
            (&"proven".into(), &"held-ebpf".into()),
            "{}",
            receipt.stdout
        );
        assert_ne!(tcp["inode-before"], tcp["inode-after"]);
        assert_eq!((&passed["rung"], &passed["inode-before"]), (&"passed".into(), &passed["inode-after"]));
    }
    let outcomes = load.stop();
    println!("{outcomes}");
    outcomes.assert_lossless();
    assert_slow_only_by(&receipts, &outcomes);
    let left: Vec<String> = before.left_behind().into_iter().filter(|line| !line.contains("haproxy")).collect();
    assert_eq!(left, Vec::<String>::new());
    receipts
}

#[test]
#[ignore = "alone: loads"]
fn tcp_is_held_and_a_unix_socket_is_passed() {
    let receipts = assert_tcp_held(&[], HOLD);
    assert!(receipts.iter().any(|receipt| receipt.at("/syns/held").as_u64() > Some(0)));
}

#[test]
#[ignore = "alone: loads"]
fn tcp_is_held_and_a_unix_socket_is_passed_with_noreuseport() {
    assert_tcp_held(&["noreuseport"], HOLD);
}

#[test]
#[ignore = "alone: loads"]
fn hold_satisfies_require_proven() {
    assert_tcp_held(&[], "[reload]\nstrategy = \"hold\"\nrequire = \"proven\"\n");
    assert_tcp_held(&["noreuseport"], "[reload]\nstrategy = \"hold\"\nrequire = \"proven\"\n");
}

//! Tests reloads under load: every connection is served, and every listener gets the right verdict.

use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::mentioning;
use reloader_tests::receipt::{assert_passed, listener, traffic};
use reloader_tests::rig::Rig;

#[test]
fn twenty_reloads_under_load_lose_nothing() {
    netns::enter();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    let load = Load::to(["127.0.0.1:8080"]).rate(2000).start();
    load.until_started(500);
    for _ in 0..20 {
        assert_passed(&rig.reload(), 1);
        load.until_further(100);
    }
    load.stop().assert_lossless();
}

#[test]
fn binds_are_added_and_removed() {
    netns::enter();
    let rig = Rig::with(&Config::new().frontend("web", &["127.0.0.1:8080", "127.0.0.1:8081"])).start();
    let load = Load::to(["127.0.0.1:8080"]).start();
    rig.configure(&Config::new().frontend("web", &["127.0.0.1:8080", "127.0.0.1:8082"]));
    let receipt = rig.reload().expect_status(0);
    assert_eq!(receipt.at("/result"), "proven");
    assert_eq!(listener(&receipt, "127.0.0.1:8080")["rung"], "passed");
    let (gone, new) = (listener(&receipt, "127.0.0.1:8081"), listener(&receipt, "127.0.0.1:8082"));
    assert_eq!((&gone["rung"], &gone["inode-after"]), (&"removed".into(), &serde_json::Value::Null));
    assert_eq!((&new["rung"], &new["inode-before"]), (&"added".into(), &serde_json::Value::Null));
    let refused = Load::to(["127.0.0.1:8081"]).connections(10).run().summary();
    assert_eq!(refused.refused, 10, "{refused}");
    Load::to(["127.0.0.1:8082"]).connections(10).run().assert_lossless();
    assert_passed(&rig.reload(), 2);
    load.stop().assert_lossless();
}

/// Without a hold; hold_reload/ tests the same with a hold.
#[test]
fn fewer_shards_are_unproven() {
    netns::enter();
    // HAProxy makes at most one shard for each thread, and by default one thread for each processor.
    let shards = |count: u32| Config::web(&format!("127.0.0.1:8080 shards {count}")).global("nbthread 2");
    let rig = Rig::with(&shards(2)).tables("[reload]\nstrategy = \"fd-pass\"").start();
    assert_passed(&rig.reload(), 2);
    rig.configure(&shards(1));
    let receipt = rig.reload().expect_status(3);
    assert_eq!(receipt.at("/result"), "unproven");
    let traffic = traffic(&receipt);
    let with = |rung: &str| traffic.iter().filter(|listener| listener["rung"] == rung).count();
    assert_eq!((with("passed"), with("unproven")), (1, 1), "{}", receipt.stdout);
    let reason = receipt.at("/reason").as_str().unwrap();
    assert!(reason.contains("127.0.0.1:8080") && reason.contains("fewer sockets"), "{reason}");
    // The queue was measured. Half-open handshakes were not: they name an address that two sockets share.
    let lost = traffic.iter().find(|listener| listener["rung"] == "unproven").unwrap();
    assert!(lost["undrained-queue"].is_u64() && lost["undrained-half-open"].is_null(), "{}", receipt.stdout);
    assert!(receipt.at("/lost/undrained").is_null(), "{}", receipt.stdout);
    rig.configure(&shards(2));
    let more = rig.reload().expect_status(0);
    assert_eq!(more.at("/result"), "proven");
}

#[test]
fn unproven_generation_is_drained_where_proof_is_required() {
    netns::enter();
    let config = Config::new().frontend("web", &["127.0.0.1:8080", "[::1]:8081"]);
    let rig = Rig::with(&config).tables("[reload]\nstrategy = \"fd-pass\"\nrequire = \"proven\"").start();
    let old = rig.serving().unwrap();
    let load = Load::to(["127.0.0.1:8080"]).rate(1500).start();
    load.until_started(100);
    for _ in 0..3 {
        let receipt = rig.reload().expect_status(1);
        assert_eq!((receipt.at("/result"), receipt.at("/new")), (&"failed".into(), &serde_json::Value::Null));
        assert_eq!(listener(&receipt, "[::1]:8081")["rung"], "unproven");
        assert!(receipt.at("/reason").as_str().unwrap().contains("[::1]:8081"), "{}", receipt.stdout);
        assert_eq!(rig.serving(), Some(old));
    }
    until(Duration::from_secs(10), "the refused generations to drain", || mentioning(rig.dir()).len() == 2);
    load.stop().assert_lossless();
    Load::to(["[::1]:8081"]).connections(20).run().assert_lossless();

    rig.configure(&Config::new().frontend("web", &["127.0.0.1:8080"]));
    rig.reload().expect_status(0);
    assert!(!old.is_alive() || rig.serving() != Some(old));
}

#[test]
fn dry_run_changes_nothing() {
    netns::enter();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    let (serving, receipts) = (rig.serving(), rig.history().stdout);
    let plan = rig.run(&["reload", "--dry-run", "--json"]).expect_status(0);
    let planned = plan.at("/plan/0");
    assert_eq!((&planned["address"], &planned["rung"]), (&"127.0.0.1:8080".into(), &"passed".into()));
    let output = rig.run(&["reload", "--dry-run"]).expect_status(0).stdout;
    assert!(output.contains("127.0.0.1:8080") && output.contains("passed"), "{output}");
    assert_eq!((rig.serving(), rig.history().stdout), (serving, receipts));
}

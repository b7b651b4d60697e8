//! Checks the qdiscs that a daemon keeps on its devices between holds, if it holds at every reload and has no TCX.
//! Adding a qdisc costs a device a millisecond, so it is added once, and removed by the last process that uses it.

use std::path::Path;
use std::time::Duration;

use reloader::gate::hold::{Backend, HoldRegistry, PersistentQdiscs, clean_up};
use reloader_tests::config::Config;
use reloader_tests::footprint::Footprint;
use reloader_tests::guest::{self, Feature, Gate};
use reloader_tests::netns;
use reloader_tests::network::{command, ip, tc};
use reloader_tests::poll::until;
use reloader_tests::receipt::listener;
use reloader_tests::rig::Rig;

fn in_a_namespace(test: impl FnOnce(&Path, &HoldRegistry)) {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    ip("link add left type veth peer name right");
    ip("link set left up");
    // The peer of the link is down, and the kernel reports that a little later.
    until(Duration::from_secs(10), "the link to settle", || command("ip", "link show left").contains("LOWERLAYERDOWN"));
    let before = Footprint::take(dir.path());
    test(dir.path(), &HoldRegistry::new(dir.path()));
    before.assert_unchanged();
}

fn qdiscs() -> String {
    command("tc", "qdisc show")
}

fn put_up(records: &HoldRegistry) -> PersistentQdiscs {
    PersistentQdiscs::install(records, Backend::Ebpf).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn receiving_devices_get_a_clsact_and_lose_it_again() {
    in_a_namespace(|_, records| {
        let standing = put_up(records);
        let found = qdiscs();
        assert!(found.contains("clsact ffff: dev lo") && found.contains("clsact ffff: dev left"), "{found}");
        assert!(!found.contains("clsact ffff: dev right"), "a device that is down: {found}");
        drop(standing);
        assert!(!qdiscs().contains("clsact"), "{}", qdiscs());
    });
}

#[test]
fn existing_qdiscs_stay() {
    in_a_namespace(|_, records| {
        tc("qdisc add dev left clsact");
        let standing = put_up(records);
        drop(standing);
        assert!(
            qdiscs().contains("clsact ffff: dev left") && !qdiscs().contains("clsact ffff: dev lo"),
            "{}",
            qdiscs()
        );
        tc("qdisc del dev left clsact");
    });
}

#[test]
fn qdiscs_of_a_living_daemon_stay() {
    in_a_namespace(|_, records| {
        let _standing = put_up(records);
        assert_eq!(clean_up(records).unwrap().removed, 0);
        assert!(qdiscs().contains("clsact"), "{}", qdiscs());
    });
}

#[test]
fn qdisc_with_a_foreign_filter_stays_until_it_is_free() {
    in_a_namespace(|_, records| {
        let standing = put_up(records);
        tc("filter add dev left ingress protocol ip prio 7 u32 match u32 0 0 flowid 1:1");
        drop(standing);
        assert!(
            qdiscs().contains("clsact ffff: dev left") && !qdiscs().contains("clsact ffff: dev lo"),
            "{}",
            qdiscs()
        );
        tc("filter del dev left ingress prio 7");
        clean_up(records).unwrap();
        assert!(!qdiscs().contains("clsact"), "{}", qdiscs());
    });
}

/// A guard that outlives its killed daemon keeps the qdisc from being removed. The next daemon removes what the killed
/// one has added.
#[test]
fn next_daemon_removes_the_qdiscs_of_a_killed_one() {
    in_a_namespace(|dir, records| {
        let standing = put_up(records);
        let file = dir.join("holds/standing.json");
        let placed = std::fs::read_to_string(&file).unwrap();
        drop(standing);
        // The state that the killed daemon left, with a foreign filter on the qdisc.
        tc("qdisc add dev left clsact");
        tc("qdisc add dev lo clsact");
        tc("filter add dev left ingress protocol ip prio 7 u32 match u32 0 0 flowid 1:1");
        std::fs::write(&file, placed).unwrap();
        let next = put_up(records);
        tc("filter del dev left ingress prio 7");
        drop(next);
        assert!(!qdiscs().contains("clsact"), "{}", qdiscs());
    });
}

#[test]
fn daemon_keeps_qdiscs_from_start_to_end_if_a_hold_needs_them() {
    let needed = guest::gate() == Some(Gate::Qdisc) || !guest::expects(Feature::Tcx);
    in_a_namespace(|_, _| {
        let strategy = if guest::gate() == Some(Gate::Qdisc) { "kernel-fallback" } else { "hold" };
        let tables = format!("[reload]\nstrategy = \"{strategy}\"\n[hold]\nmax = \"60s\"\n");
        let mut rig = Rig::with(&Config::web("127.0.0.1:8000")).tables(&tables).start();
        let assert_as_needed = |when: &str| {
            let found = qdiscs();
            assert_eq!(found.contains("clsact ffff: dev left"), needed, "{when}: {found}");
            assert_eq!(found.contains("qdisc prio"), guest::gate() == Some(Gate::Qdisc), "{when}: {found}");
        };
        assert_as_needed("after the start");
        let receipt = rig.reload();
        let rung = listener(&receipt, "127.0.0.1:8000")["rung"].as_str().unwrap().to_owned();
        assert!(rung.starts_with("held-"), "{}", receipt.stdout);
        assert_as_needed("after a hold");
        rig.kill9_daemon();
        rig.run(&["release"]).expect_status(0);
        assert!(!qdiscs().contains("clsact") && !qdiscs().contains("prio"), "{}", qdiscs());
        rig.start_daemon();
        assert_as_needed("after a kill -9");
        rig.run(&["stop"]).expect_status(0);
    });
}

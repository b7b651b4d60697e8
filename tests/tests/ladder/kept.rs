//! Tests listeners that the new configuration keeps unchanged.

use std::path::Path;

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::rig::Rig;
use reloader_tests::{guest, netns, probe};

use super::{FALLBACK, HELD, Kind, PASSED, STEERED, Step, by_address, cell};

fn kinds(directory: &Path) -> Vec<Kind> {
    vec![
        Kind::new("IPv4 address", "127.0.0.1:8000", "127.0.0.1:8000", "127.0.0.1:8000"),
        Kind::new("any IPv4", "0.0.0.0:8001", "127.0.0.1:8001", "0.0.0.0:8001"),
        Kind::new("IPv6 address, v6only", "[::1]:8002 v6only", "[::1]:8002", "[::1]:8002"),
        Kind::new("any IPv6, v6only", "[::]:8003 v6only", "[::1]:8003", "[::]:8003"),
        Kind::new("any of both families", "[::]:8004", "127.0.0.1:8004", "[::]:8004"),
        Kind::new("bound to an interface", "127.0.0.1:8005 interface lo", "127.0.0.1:8005", "127.0.0.1:8005%lo"),
        Kind::new("IPv6 address", "[::1]:8006", "[::1]:8006", "[::1]:8006"),
        Kind::unix(directory),
        Kind::new("abstract name", "abns@web", "abns@web", "abns@web"),
    ]
}

/// The rung of a kind of listener. HAProxy passes some kinds whatever the strategy for TCP is, and binds others again although their
/// sockets are offered (see docs/reference/receipts.md).
fn expected(step: Step, kind: &Kind) -> &'static str {
    match kind.name {
        "unix path" | "abstract name" => "passed",
        "IPv6 address" if step.rung == "passed" => "unproven",
        // A kernel without migration does not tell the program which interface the listener is bound to.
        "bound to an interface" if step.rung == "steered" && !probe::is_present("reuseport-migration") => "held-ebpf",
        _ => step.rung,
    }
}

fn assert_rungs_of_unchanged_listeners(step: Step) {
    netns::enter();
    if !step.is_possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let kinds = kinds(directory.path());
    let binds: Vec<&str> = kinds.iter().map(|kind| kind.bind.as_str()).collect();
    // UDP sockets are passed to HAProxy whatever the strategy is; listeners.rs counts the datagrams.
    let log = "log-forward syslog\n    dgram-bind 127.0.0.1:8514\n    log 127.0.0.1:9514 format raw local0";
    let config = Config::new().frontend("web", &binds).section(log);
    let rig = Rig::with(&config).tables(&step.tables()).start();
    let load = Load::to(kinds.iter().map(|kind| kind.client.as_str())).rate(900).start();
    let mut receipts = Vec::new();
    for _ in 0..4 {
        load.until_further(u64::from(guest::rate(900)) / 4);
        receipts.push(rig.reload());
    }
    load.until_further(100);
    let outcomes = load.stop();
    for kind in &kinds {
        let expected = expected(step, kind);
        for receipt in &receipts {
            let found = &by_address(receipt)[&kind.address];
            assert!(found.len() == 1 && found[0].0 == expected, "{}: {found:?}\n{}", kind.name, receipt.stdout);
            assert!(expected != "unproven" || found[0].1.is_some(), "no reason: {}", receipt.stdout);
        }
        let why = by_address(&receipts[0])[&kind.address][0].1.clone();
        let result = if expected == "unproven" {
            why.unwrap()
        } else if expected == step.rung {
            "proven".into()
        } else {
            format!("not applicable: {expected}")
        };
        cell(step.rung, kind.name, &result);
    }
    for receipt in &receipts {
        let udp = &by_address(receipt)["udp@127.0.0.1:8514"];
        assert!(udp.len() == 1 && udp[0].0 == "passed", "{udp:?}");
    }
    cell(step.rung, "UDP", if step.rung == "passed" { "proven" } else { "not applicable: passed" });
    let quic = match step.rung {
        "passed" => "the HAProxy of the guests does not speak QUIC; tests/quic.rs passes it on the host",
        _ => "not applicable: passed",
    };
    cell(step.rung, "QUIC", quic);
    println!("{}: {outcomes}", step.strategy);
    // With `fd-pass` one kind is unproven and may lose connections. With the other strategies every kind is proven.
    if step.rung != "passed" {
        outcomes.assert_lossless();
    }
}

#[test]
#[ignore = "alone: loads"]
fn fd_pass_gives_each_kind_its_rung() {
    assert_rungs_of_unchanged_listeners(PASSED);
}

#[test]
#[ignore = "alone: loads"]
fn steer_gives_each_kind_its_rung() {
    assert_rungs_of_unchanged_listeners(STEERED);
}

#[test]
#[ignore = "alone: loads"]
fn ebpf_hold_gives_each_kind_its_rung() {
    assert_rungs_of_unchanged_listeners(HELD);
}

#[test]
#[ignore = "alone: loads"]
fn qdisc_hold_gives_each_kind_its_rung() {
    assert_rungs_of_unchanged_listeners(FALLBACK);
}

//! Tests steered reloads under load: no connection is lost and nothing is left behind. The reloads of a neighbour, which do not touch the
//! listener, alternate with them. They show how much latency comes from the start of a HAProxy alone.

use reloader_tests::config::Config;
use reloader_tests::footprint::Footprint;
use reloader_tests::load::{Load, Span};
use reloader_tests::netns;
use reloader_tests::receipt::listener;
use reloader_tests::rig::Rig;
use reloader_tests::tier;

use super::{STEER, WEB};

const NEIGHBOUR: &str = "127.0.0.1:9000";
const RATE: u32 = 4000;
const OWN: &str = "reloads";
const OTHER: &str = "neighbour's reloads";

fn reloads() -> u64 {
    tier::rounds(100)
}

fn connections() -> u64 {
    tier::rounds(200_000)
}

#[test]
#[ignore = "alone: loads, and looks at the eBPF objects of the whole machine"]
fn steered_reloads_lose_nothing_and_leave_nothing_behind() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).tables(STEER).prepare();
    let before = Footprint::take_with_bpf(rig.dir());
    let neighbour = Rig::with(&Config::web(NEIGHBOUR)).tables(STEER).start();
    rig.start_daemon();
    let load = Load::to([WEB]).rate(RATE).connections(connections()).start();
    let (mut migrated, mut windows) = (0, Vec::new());
    for round in 1..=2 * reloads() {
        load.until_started(round * connections() / (2 * reloads() + 1));
        let own = round.is_multiple_of(2);
        let span = Span::begin(if own { OWN } else { OTHER });
        let receipt = if own { rig.reload() } else { neighbour.reload() };
        windows.push(span.end());
        assert!(receipt.status == 0 && receipt.at("/result") == "proven", "{}{}", receipt.stdout, receipt.stderr);
        let web = listener(&receipt, if own { WEB } else { NEIGHBOUR });
        assert_eq!(web["rung"], "steered", "{}", receipt.stdout);
        assert_ne!(web["inode-before"], web["inode-after"]);
        migrated += web["migrated"].as_u64().expect("a figure");
    }
    let outcomes = load.wait();
    println!("{} reloads, {migrated} migrated: {outcomes}", reloads());
    let table = outcomes.by_window(&windows);
    for (label, summary) in &table {
        println!("{label:<20} {summary}");
    }
    let p99 = |during: &str| {
        let (_, summary) = table.iter().find(|(label, _)| label == during).expect("connections in it");
        summary.latency.value_at_quantile(0.99) as f64 / 1000.0
    };
    println!("p99 {:.2} / {:.2} ms = {:.2}", p99(OWN), p99(OTHER), p99(OWN) / p99(OTHER));
    outcomes.assert_lossless();
    rig.run(&["stop"]).expect_status(0);
    neighbour.run(&["stop"]).expect_status(0);
    before.assert_unchanged();
}

//! Runs `cargo xtask bench` with short loads, and checks that the report has a row for every way.

use reloader_tests::bench::{Figures, Way};
use reloader_tests::cargo::cargo;
use serde_json::Value;

/// How many runs may pass without a loss, although each kill refuses connections for a while.
const MOST_TRIES: usize = 20;

/// Runs the benchmark by cargo, which builds what has changed: an older `xtask` would report its own state.
fn bench(arguments: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let output = cargo()
        .args(["run", "--quiet", "--locked", "--package", "xtask", "--", "bench", "--profile", "dev", "--no-vm"])
        .args(arguments)
        .arg("--out")
        .arg(directory.path())
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
    let page = std::fs::read_to_string(directory.path().join("bench.html")).unwrap();
    assert!(Way::ALL.iter().all(|way| page.contains(way.title())), "a way has no line in the report");
    serde_json::from_slice(&std::fs::read(directory.path().join("bench.json")).unwrap()).unwrap()
}

fn rows(document: &Value) -> Vec<(Way, Option<Figures>, Value)> {
    let rows = document["rows"].as_array().unwrap().iter();
    rows.map(|row| {
        let read = |name: &str| row[name].clone();
        (
            serde_json::from_value(read("way")).unwrap(),
            serde_json::from_value(read("figures")).unwrap(),
            read("not-run"),
        )
    })
    .collect()
}

#[test]
#[ignore = "alone: measures under load"]
fn report_has_a_row_for_every_way() {
    let document = bench(&["--connections", "2000", "--rate", "1000"]);
    let rows = rows(&document);
    assert_eq!(rows.iter().map(|(way, ..)| *way).collect::<Vec<_>>(), Way::ALL);
    for (way, figures, not_run) in rows {
        let Some(figures) = figures else {
            assert!(
                way.needs_guest() && not_run.as_str().is_some_and(|reason| reason.contains("--no-vm")),
                "{way}: {not_run}"
            );
            continue;
        };
        assert_eq!((figures.connections, figures.reloads_us.len()), (2000, 2), "{way}");
        let served: u64 = figures.latency.iter().map(|(_, count)| count).sum();
        assert_eq!(served + figures.lost() + figures.own_failures, 2000, "{way}");
        assert!(figures.cpu_us > 0 && figures.around.iter().any(|moment| moment.connections > 0), "{way}");
        if way.rung().is_some() {
            assert_eq!((figures.lost(), figures.proven), (0, 2), "{way}: {:?}", figures.lost);
        }
    }
}

/// Between the end of one HAProxy and the start of the next the port has no listener, for as long as HAProxy takes to
/// start. A connection is due each millisecond. A generator that stops for that long would not see the loss.
#[test]
#[ignore = "alone: measures under load"]
fn kill_and_start_loses_connections() {
    let words = ["--connections", "2000", "--reloads", "8", "--rate", "1000", "--only", "kill-and-start"];
    let lost = || rows(&bench(&words)).iter().filter_map(|(_, figures, _)| Some(figures.as_ref()?.lost())).sum::<u64>();
    assert!((0..MOST_TRIES).any(|_| lost() > 0), "the load does not see losses");
}

#[test]
#[ignore = "alone: measures under load"]
fn measuring_one_way_again_keeps_the_other_results() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("before.json");
    let before = bench(&["--connections", "1000", "--reloads", "1", "--rate", "1000", "--only", "x", "--only", "sf"]);
    std::fs::write(&file, before.to_string()).unwrap();
    let after = bench(&["--from", file.to_str().unwrap(), "--only", "x"]);
    assert_eq!((&before["load"], &before["machine"]), (&after["load"], &after["machine"]));
    for ((way, before, _), (_, after, _)) in rows(&before).into_iter().zip(rows(&after)) {
        // Latencies are in microseconds: no two runs have the same.
        assert_eq!(before == after, way != Way::PassSockets, "{way}");
    }
}

#[test]
#[ignore = "alone: measures under load"]
fn only_the_requested_way_is_measured() {
    let document = bench(&["--connections", "1000", "--reloads", "1", "--rate", "1000", "--only", "x"]);
    assert_eq!(document["load"]["reloads"], 1);
    for (way, figures, not_run) in rows(&document) {
        assert_eq!(figures.is_some(), way == Way::PassSockets, "{way}");
        assert_eq!(not_run.as_str().is_some_and(|reason| reason.contains("--only")), way != Way::PassSockets, "{way}");
    }
}

//! Shows that the rig sees losses where connections are lost, and none where none is lost. Without this a test that
//! finds no loss would prove nothing.

use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::plain::{Method, Plain, Report, Trial, run};

const TRIAL: Trial = Trial { rate: 2000, connections: 12_000, reloads: 18, ports: 1 };

fn trial(method: Method, trial: Trial) -> Report {
    let report = run(&HaproxyBinary::installed(), method, trial);
    println!("{method:?}, {} reloads: {}", report.reloads.len(), report.outcomes);
    for (label, summary) in report.outcomes.by_window(&report.reloads) {
        println!("    {label}: {summary}");
    }
    report
}

#[test]
#[ignore = "alone: loads"]
fn kill_and_start_loses_connections() {
    netns::enter();
    let summary = trial(Method::KillAndStart, TRIAL).outcomes.summary();
    assert!(summary.refused > 0, "{summary}");
}

#[test]
#[ignore = "alone: loads"]
fn noreuseport_loses_connections() {
    netns::enter();
    let summary = trial(Method::NoReusePort, TRIAL).outcomes.summary();
    assert!(summary.refused > 0, "{summary}");
}

#[test]
#[ignore = "alone: loads"]
fn passed_sockets_lose_no_connection() {
    netns::enter();
    trial(Method::PassSockets, TRIAL).outcomes.assert_lossless();
}

/// At this rate the number of losses depends on chance, so the test expects no number.
#[test]
#[ignore = "alone: loads"]
fn losses_of_a_soft_stop_are_printed() {
    netns::enter();
    trial(Method::SoftStop, TRIAL);
}

/// The generator itself reports whether it kept its schedule. See load_generator.rs for a generator that reports that
/// it did not.
#[test]
#[ignore = "alone: loads"]
fn generator_keeps_its_schedule() {
    assert_keeps_schedule(2000);
}

/// The rate that the generator must sustain beside a HAProxy, on two cores that run nothing else.
#[test]
#[ignore = "alone: needs an otherwise quiet machine"]
fn generator_keeps_its_schedule_at_8000_per_second() {
    assert_keeps_schedule(8000);
}

fn assert_keeps_schedule(rate: u32) {
    netns::enter();
    let _server = Plain::start(&HaproxyBinary::installed(), Method::SoftStop, 1);
    let outcomes = Load::to(["127.0.0.1:8000"]).rate(rate).connections(u64::from(rate) * 5).run();
    println!("{outcomes}");
    outcomes.assert_lossless();
    assert!(outcomes.kept_schedule(), "{outcomes}");
}

/// Compares all methods at a high rate, for the record.
#[test]
#[ignore = "alone: a minute of full load; its figures are for reading"]
fn losses_of_every_method_at_a_high_rate_are_printed() {
    netns::enter();
    for method in Method::ALL {
        let hard = Trial { rate: 8000, connections: 64_000, reloads: 75, ports: 1 };
        let report = run(&HaproxyBinary::installed(), method, hard);
        println!("{method:?}, {} reloads: {}", report.reloads.len(), report.outcomes);
    }
}

/// HAProxy's own time for `-x -sf`, as a comparison for reloader's time.
#[test]
#[ignore = "alone: its figures are for reading"]
fn reload_times_by_number_of_listeners_are_printed() {
    netns::enter();
    for ports in [1, 100, 3000] {
        let mut server = Plain::start(&HaproxyBinary::installed(), Method::PassSockets, ports);
        let mut times: Vec<_> = (0..10).map(|_| server.reload()).collect();
        times.sort();
        println!("{ports} listeners: median {:?}, at most {:?}", times[5], times[9]);
    }
}

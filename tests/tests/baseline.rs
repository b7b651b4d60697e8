//! The rig can see loss where there is some, and none where there is none. Without this a test that finds nothing lost
//! would prove nothing.

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

/// What is lost here is a matter of luck at this rate, so no number is demanded.
#[test]
#[ignore = "alone: loads"]
fn losses_of_a_soft_stop_are_printed() {
    netns::enter();
    trial(Method::SoftStop, TRIAL);
}

/// Whether it does is known from its own word; see load_generator.rs for a generator that admits that it does not.
#[test]
#[ignore = "alone: loads"]
fn generator_keeps_its_schedule() {
    generate(2000);
}

/// The rate that the generator must carry beside a HAProxy on two cores with nothing else on them.
#[test]
#[ignore = "alone: needs an otherwise quiet machine"]
fn generator_keeps_its_schedule_at_8000_per_second() {
    generate(8000);
}

fn generate(rate: u32) {
    netns::enter();
    let _server = Plain::start(&HaproxyBinary::installed(), Method::SoftStop, 1);
    let outcomes = Load::to(["127.0.0.1:8000"]).rate(rate).connections(u64::from(rate) * 5).run();
    println!("{outcomes}");
    outcomes.assert_lossless();
    assert!(outcomes.kept_schedule(), "{outcomes}");
}

/// The full comparison at a high rate, for the record.
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

/// HAProxy's own time for `-x -sf`, to set reloader's beside it.
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

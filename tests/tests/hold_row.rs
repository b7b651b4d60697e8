//! Reloads HAProxy under a hold, with the gate of this row of the kernel matrix (on the host: eBPF). With `noreuseport`
//! the old and the new generation cannot bind at the same time, as on a kernel before 3.9. Still no connection is
//! refused, reset or slow. The same run does the same reloads without a gate for comparison.

use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::footprint::Footprint;
use reloader_tests::guest::{self, Gate};
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::load::{Load, Outcomes};
use reloader_tests::netns;
use reloader_tests::plain::{Method, Plain};
use reloader_tests::receipt::{assert_proven, listener};
use reloader_tests::rig::Rig;
use reloader_tests::tier;

const WEB: &str = "127.0.0.1:8000";
const RATE: u32 = 2000;
/// Connections between two reloads.
const FURTHER: u64 = 400;

fn reloads() -> u32 {
    tier::rounds(20)
}

#[test]
#[ignore = "alone: loads"]
fn reloads_with_noreuseport_lose_nothing_under_a_hold() {
    netns::enter();
    let (held, longest) = with_reloader();
    let plain = without_a_gate();
    println!("held:    {}", held.summary());
    println!("no gate: {}", plain.summary());
    held.assert_lossless();
    // On a busy host a hold itself may take long. In a guest the clock stands still meanwhile.
    let may_be_slow = !guest::is_guest() && longest > Duration::from_millis(500);
    assert!(held.summary().slow == 0 || may_be_slow, "the longest hold: {longest:?}; {held}");
    assert!(plain.summary().failed() > 0, "the load does not see losses: {}", plain.summary());
}

/// Returns the outcomes, and the time of the longest hold.
fn with_reloader() -> (Outcomes, Duration) {
    let (strategy, rung) = expected();
    let config = Config::web(WEB).global("noreuseport");
    let mut rig =
        Rig::with(&config).tables(&format!("[reload]\nstrategy = \"{strategy}\"\n[hold]\nmax = \"60s\"\n")).prepare();
    let before = Footprint::take(rig.dir());
    rig.start_daemon();
    let load = Load::to([WEB]).rate(RATE).start();
    let mut longest = 0;
    for _ in 0..reloads() {
        load.until_further(FURTHER.min(guest::rate(RATE).into()));
        let receipt = rig.reload();
        longest = longest.max(receipt.at("/syns/longest-hold-us").as_u64().unwrap_or(0));
        assert_proven(&receipt);
        assert_eq!(listener(&receipt, WEB)["rung"], rung, "{}", receipt.stdout);
        assert_eq!(receipt.at("/lost/undrained"), 0);
    }
    let outcomes = load.stop();
    rig.run(&["stop"]).expect_status(0);
    before.assert_unchanged();
    (outcomes, Duration::from_micros(longest))
}

/// The strategy, and the rung that a reload must reach with it. If bpf(2) is denied, `hold` chooses the qdisc gate.
/// Otherwise only `kernel-fallback` chooses it.
fn expected() -> (&'static str, &'static str) {
    match (guest::gate(), guest::expects(guest::Feature::Bpf)) {
        (Some(Gate::Qdisc), true) => ("kernel-fallback", "held-qdisc"),
        (Some(Gate::Qdisc), false) => ("hold", "held-qdisc"),
        _ => ("hold", "held-ebpf"),
    }
}

fn without_a_gate() -> Outcomes {
    let mut server = Plain::start(&HaproxyBinary::installed(), Method::NoReusePort, 1);
    let load = Load::to([WEB]).rate(RATE).start();
    for _ in 0..reloads() {
        load.until_further(FURTHER.min(guest::rate(RATE).into()));
        server.reload();
    }
    load.stop()
}

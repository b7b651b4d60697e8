//! Compares reloader with HAProxy alone: one hundred thousand connections through a hundred reloads.

use reloader_tests::config::Config;
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::load::{Load, Outcomes, Span, Window};
use reloader_tests::netns;
use reloader_tests::plain::{self, Method, Trial};
use reloader_tests::receipt::assert_passed;
use reloader_tests::rig::Rig;

const WEB: &str = "127.0.0.1:8000";
/// A load that a machine of two cores carries easily beside HAProxy and its reloads.
const TRIAL: Trial = Trial { rate: 4000, connections: 120_000, reloads: 120, ports: 1 };

#[test]
#[ignore = "alone: loads"]
fn reloader_loses_nothing_where_kill_and_restart_loses() {
    netns::enter();
    let (ours, windows) = run_with_reloader(TRIAL);
    let mut table = vec![row("reloader", &ours, &windows)];
    let mut plain = |name: &str, method, trial| {
        let report = plain::run(&HaproxyBinary::installed(), method, trial);
        table.push(row(name, &report.outcomes, &report.reloads));
        report.outcomes.summary()
    };
    plain("haproxy -sf", Method::SoftStop, TRIAL);
    let killed = plain("kill, restart", Method::KillAndStart, Trial { connections: 60_000, reloads: 60, ..TRIAL });
    println!(
        "{:<14}{:>12}{:>9}{:>9}{:>9}{:>9}{:>9}  {:>8}{:>8}{:>8}",
        "", "connections", "reloads", "failed", "refused", "reset", "other", "p50 ms", "p99 ms", "max ms"
    );
    table.iter().for_each(|line| println!("{line}"));

    ours.assert_lossless();
    assert!(ours.all.len() >= 100_000 && windows.len() >= 100);
    assert!(killed.failed() > 0, "the load would not have seen a loss: {killed}");
}

fn run_with_reloader(trial: Trial) -> (Outcomes, Vec<Window>) {
    let rig = Rig::with(&Config::web(WEB)).start();
    let load = Load::to([WEB]).rate(trial.rate).connections(trial.connections).start();
    let mut windows = Vec::new();
    for round in 1..=u64::from(trial.reloads) {
        load.until_started(round * trial.connections / (u64::from(trial.reloads) + 1));
        let span = Span::begin("reload");
        assert_passed(&rig.reload(), 1);
        windows.push(span.end());
    }
    (load.wait(), windows)
}

fn row(name: &str, outcomes: &Outcomes, windows: &[Window]) -> String {
    let summary = outcomes.summary();
    let (failed, refused, reset) = (summary.failed(), summary.refused, summary.reset());
    let ms = |micros: u64| format!("{:.2}", micros as f64 / 1000.0);
    let latency = &summary.latency;
    let late = if outcomes.kept_schedule() { "" } else { "  (the generator fell behind)" };
    format!(
        "{name:<14}{:>12}{:>9}{failed:>9}{refused:>9}{reset:>9}{:>9}  {:>8}{:>8}{:>8}{late}",
        summary.connections,
        windows.len(),
        failed - refused - reset,
        ms(latency.value_at_quantile(0.5)),
        ms(latency.value_at_quantile(0.99)),
        ms(latency.max()),
    )
}

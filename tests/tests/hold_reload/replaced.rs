//! With `noreuseport` old and new cannot be bound beside each other. Nothing is refused, reset or slow; beside it in the same run
//! the same reloads without a gate.

use reloader_tests::config::Config;
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::load::{Load, Outcomes};
use reloader_tests::netns;
use reloader_tests::plain::{self, Method, Trial};
use reloader_tests::receipt::listener;
use reloader_tests::rig::Rig;

use crate::{HOLD, WEB};

#[test]
fn a_haproxy_with_noreuseport_is_replaced_under_a_hold() {
    let _alone = netns::enter_alone();
    let trial = Trial { rate: 2000, connections: 40_000, reloads: 24, ports: 1 };
    let ours = with_reloader(trial);
    let plain = plain::run(&HaproxyBinary::installed(), Method::NoReusePort, trial);
    println!("held:    {}", ours.summary());
    println!("no gate: {}", plain.outcomes.summary());
    ours.assert_lossless();
    assert!(plain.outcomes.summary().failed() > 0, "the load would not have seen a loss");
}

fn with_reloader(trial: Trial) -> Outcomes {
    let config = Config::web(WEB).global("noreuseport");
    let rig = Rig::with(&config).tables(HOLD).start();
    let load = Load::to([WEB]).rate(trial.rate).connections(trial.connections).start();
    for round in 1..=u64::from(trial.reloads) {
        load.until_started(round * trial.connections / (u64::from(trial.reloads) + 1));
        let receipt = rig.reload();
        assert!(receipt.status == 0 && receipt.at("/result") == "proven", "{}{}", receipt.stdout, receipt.stderr);
        assert_eq!(listener(&receipt, WEB)["rung"], "held-ebpf");
        assert_eq!(receipt.at("/lost/undrained"), 0);
    }
    load.wait()
}

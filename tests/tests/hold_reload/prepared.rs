//! Looks at a hold that is put in place while the configuration is checked.

use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::footprint::Footprint;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::{Process, guards};
use reloader_tests::rig::{Pending, Rig};
use reloader_tests::wrapper::{Behaviour, Wrapper, hanging_process};

use super::{HOLD, WEB};

const LIMIT: Duration = Duration::from_secs(20);

/// A reload whose check goes on, with its hold in place.
struct Checked {
    rig: Rig,
    before: Footprint,
    check: Process,
    reload: Pending,
    wrapper: Wrapper,
}

impl Checked {
    fn start() -> Checked {
        netns::enter();
        let wrapper = Wrapper::new();
        let config = Config::web(WEB).global("noreuseport");
        let rig = Rig::with(&config).haproxy_at(&wrapper.path()).tables(HOLD).start();
        let before = Footprint::take_with_bpf(rig.dir());
        wrapper.set(Behaviour::HangInCheck);
        let reload = rig.spawn(&["reload", "--json"]);
        until(LIMIT, "the check to hang", || hanging_process(&rig.haproxy_cfg()).is_some());
        let check = hanging_process(&rig.haproxy_cfg()).unwrap();
        until(LIMIT, "the programs of the hold", || {
            before.changes().iter().any(|change| change.starts_with("+ bpf prog"))
        });
        Checked { rig, before, check, reload, wrapper }
    }
}

#[test]
#[ignore = "alone: loads"]
fn connections_are_served_while_the_configuration_is_checked() {
    let Checked { rig, before, check, mut reload, wrapper } = Checked::start();
    Load::to([WEB]).connections(200).run().assert_lossless();
    assert!(reload.is_running(), "the check goes on");
    assert_eq!(rig.status().at("/holds"), &serde_json::json!([]));
    rig.run(&["release"]).expect_status(0);
    wrapper.set(Behaviour::Normal);
    check.end();
    let answer = reload.wait().expect_status(1);
    assert!(answer.at("/reason").as_str().unwrap().contains("refuses"), "{}", answer.stdout);
    assert_eq!(before.left_behind(), [""; 0]);
    let receipt = rig.reload().expect_status(0);
    assert_eq!(receipt.at("/listeners/0/rung"), "held-ebpf");
}

#[test]
#[ignore = "alone: loads"]
fn daemon_killed_during_the_check_leaves_no_hold() {
    let Checked { mut rig, before, check, reload, wrapper } = Checked::start();
    rig.kill9_daemon();
    reload.wait().expect_status(69);
    until(LIMIT, "the guard to end", || guards().is_empty());
    Load::to([WEB]).connections(200).run().assert_lossless();
    check.end();
    assert_eq!(before.left_behind(), [""; 0]);
    wrapper.set(Behaviour::Normal);
    rig.start_daemon();
    until(LIMIT, "a generation to serve", || rig.serving().is_some());
    rig.reload().expect_status(0);
}

//! Tests the signals by which common setups of HAProxy and nginx reload a server or end an old one.

use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::refuses;
use reloader_tests::wrapper::{Behaviour, Wrapper, hanging_process};

const WEB: &str = "127.0.0.1:8080";
const LIMIT: Duration = Duration::from_secs(20);

fn receipt_kinds(rig: &Rig) -> Vec<String> {
    let history = rig.history();
    let receipts = history.json.as_array().cloned().unwrap_or_else(|| vec![history.json.clone()]);
    receipts.iter().map(|receipt| receipt["kind"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn sigusr2_reloads() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let (daemon, old) = (rig.daemon_process(), rig.serving().unwrap());
    rig.signal_daemon(Signal::SIGUSR2);
    rig.until_replaced(old);
    until(LIMIT, "the receipt of the reload", || receipt_kinds(&rig) == ["reload", "start"]);
    assert_eq!(rig.last_receipt()["result"], "proven");
    assert!(daemon.is_alive() && daemon == rig.daemon_process());
}

#[test]
fn sigusr1_and_sigquit_are_ignored() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let (daemon, serving) = (rig.daemon_process(), rig.serving());
    for (signal, name) in [(Signal::SIGUSR1, "SIGUSR1"), (Signal::SIGQUIT, "SIGQUIT")] {
        rig.signal_daemon(signal);
        until(LIMIT, "the log to report the signal", || rig.log().contains(&format!("{name} does nothing here")));
    }
    assert!(daemon.is_alive() && rig.serving() == serving && !refuses(WEB));
    assert_eq!(receipt_kinds(&rig), ["start"]);
    rig.reload().expect_status(0);
}

/// Both signals arrive while the loop is busy: the reload is done, whichever came first.
#[test]
fn sighup_does_not_hide_a_simultaneous_sigusr2() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).start();
    for signals in [[Signal::SIGHUP, Signal::SIGUSR2], [Signal::SIGUSR2, Signal::SIGHUP]] {
        let before = receipt_kinds(&rig).len();
        wrapper.set(Behaviour::WaitForChange);
        let reload = rig.spawn(&["reload", "--json"]);
        until(LIMIT, "a generation to start", || {
            std::fs::read_to_string(rig.path("run/generations.json")).is_ok_and(|text| text.contains("\"starting\""))
        });
        let received = |name: &str| rig.log().matches(&format!("{name} was received")).count();
        let (hangups, reloads) = (received("SIGHUP"), received("SIGUSR2"));
        for signal in signals {
            rig.signal_daemon(signal);
        }
        until(LIMIT, "both signals to be received", || received("SIGHUP") > hangups && received("SIGUSR2") > reloads);
        wrapper.set(Behaviour::Normal);
        reload.wait().expect_status(0);
        until(LIMIT, "one more reload", || receipt_kinds(&rig).len() == before + 2);
    }
}

/// `systemctl kill -s USR2` signals every process of the unit, a HAProxy that has not set its handlers yet too.
#[test]
fn haproxy_that_starts_ignores_sigusr2() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).start();
    wrapper.set(Behaviour::Hang);
    let _reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "a start that hangs", || hanging_process(&rig.haproxy_cfg()).is_some());
    let starting = hanging_process(&rig.haproxy_cfg()).expect("the process that hangs");
    let status = std::fs::read_to_string(format!("/proc/{}/status", starting.pid)).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("the ignored signals");
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    assert_ne!(ignored & (1 << (Signal::SIGUSR2 as u32 - 1)), 0, "{status}");
}
